"""Two hundred listeners to jobs' events: how late an event comes, and the API's peak memory."""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx

from benchmarks.crowds import upload_at_once
from benchmarks.options import Options
from benchmarks.overload import ServedApi, noise_png, served_api
from benchmarks.tables import Row, row_of
from seg_pipeline.jobs.progress import Progress
from seg_pipeline.store import keys, open_store
from seg_pipeline.store.serialization import write

LISTENERS = 200
PAUSE_SECONDS = 0.5


@dataclass
class Delays:
    """When each state was written, and the milliseconds after which listeners had it."""

    written: dict[tuple[str, int], float] = field(default_factory=dict)
    milliseconds: list[float] = field(default_factory=list)
    listening: int = 0

    def came(self, uuid: str, done: int) -> None:
        """Notes that a listener has a state."""
        began = self.written.get((uuid, done))
        if began is not None:
            self.milliseconds.append(1000 * (time.monotonic() - began))


def measure(options: Options) -> list[Row]:
    """A job for each listener, and one job for all."""
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for jobs in (LISTENERS, 1):
        with served_api(options.folder / f"data-{jobs}", MAX_LISTENERS="256") as api:
            rows += asyncio.run(_followed(api, jobs, options.scaled(20, 3)))
    return rows


async def _followed(api: ServedApi, jobs: int, rounds: int) -> list[Row]:
    uuids = [f"job-{number}" for number in range(jobs)]
    await upload_at_once(api.url, uuids, noise_png(32))
    delays = Delays()
    limits = httpx.Limits(max_connections=LISTENERS)
    async with httpx.AsyncClient(base_url=api.url, timeout=60, limits=limits) as client:
        listeners = [
            asyncio.create_task(_listen(client, uuids[number % jobs], delays))
            for number in range(LISTENERS)
        ]
        while delays.listening < LISTENERS:
            await asyncio.sleep(0.05)
        api.peak_megabytes()
        await _work(api, uuids, rounds, delays)
        peak = api.peak_megabytes()
        for each in listeners:
            each.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
    what = f"{LISTENERS} listeners to {jobs} job{'s' if jobs > 1 else ''}"
    late = sorted(delays.milliseconds)
    note = f"{len(late)} events; 99 of 100 within {late[int(0.99 * len(late))]:.0f} ms"
    return [
        row_of(f"{what}: an event reaches a listener after", late, "ms", "200 ms", note),
        Row(f"{what}: the API's peak memory", f"{peak:.0f} MB", "", "300 MB"),
    ]


async def _listen(client: httpx.AsyncClient, uuid: str, delays: Delays) -> None:
    async with client.stream("GET", f"/jobs/{uuid}/events") as response:
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                if '"done":' in line:
                    delays.came(uuid, int(line.partition('"done":')[2].partition(",")[0]))
                else:
                    delays.listening += 1


async def _work(api: ServedApi, uuids: list[str], rounds: int, delays: Delays) -> None:
    """Replaces the notes of some jobs at a time, as workers do."""
    store = open_store(api.settings)
    for done in range(1, rounds + 1):
        for start in range(0, len(uuids), 10):
            for uuid in uuids[start : start + 10]:
                note = write(Progress("segments", datetime.now(UTC), done, rounds))
                delays.written[uuid, done] = time.monotonic()
                store.put(keys.progress(uuid), note)
            await asyncio.sleep(PAUSE_SECONDS / max(1, len(uuids) / 10))
    await asyncio.sleep(1)
