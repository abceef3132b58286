"""The fetcher: `seg-pipeline fetcher` stores the pictures that jobs name by URL.

It is the only process that waits for strangers. Some hundred fetches are under way at once in one
thread. Their bytes are spooled to disk, so memory does not grow with them.

Retries are recorded in the store (see `fetches`), so a fetcher that is killed goes on where it was.
Several fetchers share the jobs. Each takes over the jobs of one whose heartbeat stops.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import random
import signal
import socket
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

from seg_pipeline.adapters.fetch_schedule import (
    SLOW_AFTER_SECONDS,
    AddressBusy,
    FetchSchedule,
    FetchSlot,
    FetchSlots,
    ScheduledFetch,
)
from seg_pipeline.adapters.image_fetch import (
    FetchedBody,
    FetchLimits,
    fetch_image,
    host_of,
    public_address,
)
from seg_pipeline.adapters.public_network import PublicNetwork, Resolver
from seg_pipeline.errors import (
    FetchError,
    FetchGivenUp,
    FetchUnavailable,
    InvalidUrl,
    SegPipelineError,
    StoreError,
)
from seg_pipeline.jobs.backoff import Jitter, growing_pause
from seg_pipeline.jobs.fetches import FetchQueue, FetchRecord, FetchState
from seg_pipeline.jobs.heartbeats import (
    FetcherHeartbeat,
    all_fetchers,
    died_here,
    live_fetchers,
    remove_fetcher_heartbeat,
    write_fetcher_heartbeat,
)
from seg_pipeline.settings import Settings, get_settings
from seg_pipeline.store import Store, open_store
from seg_pipeline.telemetry import metrics
from seg_pipeline.telemetry.logs import about, configure_logging
from seg_pipeline.telemetry.snapshots import start_reporter

logger = logging.getLogger("seg_pipeline.fetcher")

LONGEST_PAUSE_SECONDS = 60.0
STORE_PAUSE_SECONDS = 2.0
IN_MEMORY_BYTES = 64 * 2**10
"""Of each picture. The rest goes to an unnamed file, which goes with the process."""

STORED_AT_ONCE = 4
STORE_CALLS_AT_ONCE = 16
READ_AT_ONCE = 64


class Fetcher:
    """Fetches the pictures that the store lists, until it is stopped.

    One per process, on one event loop.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        resolver: Resolver | None = None,
        limits: FetchLimits | None = None,
        jitter: Jitter = random.random,
    ) -> None:
        self.queue = FetchQueue(store)
        self.name = f"{socket.gethostname()}-{os.getpid()}"
        self._store = store
        self._settings = settings
        self._resolver = resolver or Resolver()
        self._limits = limits or FetchLimits(total_seconds=settings.fetch_seconds)
        self._jitter = jitter
        self._slots = FetchSlots(settings.fetches_at_once, settings.fetches_per_host)
        self._schedule = FetchSchedule(self._slots)
        self._known: dict[str, asyncio.Task[None] | None] = {}
        self._names: Collection[str] = (self.name,)
        self._storing = asyncio.Semaphore(STORED_AT_ONCE)
        self._woken = asyncio.Event()

    async def run(self, stopping: asyncio.Event) -> None:
        """Looks for jobs, fetches, and writes heartbeats.

        The next fetcher begins anew what is under way at the end.
        """
        asyncio.get_running_loop().set_default_executor(
            ThreadPoolExecutor(STORE_CALLS_AT_ONCE, "store")
        )
        loops = [asyncio.create_task(work) for work in (self._keep_looking(), self._keep_beating())]
        try:
            ended = asyncio.create_task(stopping.wait())
            await asyncio.wait([ended, *loops], return_when=asyncio.FIRST_COMPLETED)
            for loop in loops:
                if loop.done():
                    loop.result()
        finally:
            for task in (*loops, *filter(None, self._known.values())):
                task.cancel()
            with contextlib.suppress(StoreError):
                await asyncio.to_thread(remove_fetcher_heartbeat, self._store, self.name)

    async def look(self) -> None:
        """Adds new jobs and drops those that are gone."""
        uuids = await asyncio.to_thread(self.queue.uuids)
        for uuid in self._known.keys() - set(uuids):
            self._forget(uuid)
        new_uuids = [uuid for uuid in uuids if uuid not in self._known and self._is_mine(uuid)]
        for start in range(0, len(new_uuids), READ_AT_ONCE):
            await asyncio.gather(*map(self._learn_of, new_uuids[start : start + READ_AT_ONCE]))
            self.begin_due()

    def begin_due(self) -> None:
        """Begins every fetch that is due and has a slot."""
        for fetch in self._schedule.begin_due(datetime.now(UTC)):
            slot = self._slots.take(fetch)
            self._known[fetch.uuid] = asyncio.create_task(self._attempt(fetch, slot))

    async def _keep_looking(self) -> None:
        while True:
            began = time.monotonic()
            try:
                await self.look()
            except StoreError as error:
                logger.warning("the store is unavailable, and nothing is lost: %s", error)
                await asyncio.sleep(STORE_PAUSE_SECONDS)
            self.begin_due()
            # With many thousands of jobs a listing takes long; half of the time is left to the
            # fetches.
            await asyncio.sleep(max(self._settings.inbox_pause_seconds, time.monotonic() - began))

    async def _keep_beating(self) -> None:
        """Writes this process's heartbeat, and reads which others live."""
        await asyncio.to_thread(self._forget_dead_neighbours)
        while True:
            with contextlib.suppress(StoreError):
                await asyncio.to_thread(self._beat)
            await asyncio.sleep(self._settings.heartbeat_seconds)

    def _beat(self) -> None:
        now, under_way = datetime.now(UTC), self._slots.quick + self._slots.slow
        write_fetcher_heartbeat(
            self._store,
            FetcherHeartbeat(self.name, os.getpid(), socket.gethostname(), now, under_way),
        )
        live = live_fetchers(self._store, now, self._settings.worker_stale_seconds)
        self._names = {self.name, *(heartbeat.name for heartbeat in live)}

    def _forget_dead_neighbours(self) -> None:
        """Removes the heartbeats of fetchers on this host whose processes are gone.

        Their jobs then need not wait.
        """
        with contextlib.suppress(StoreError):
            for heartbeat in all_fetchers(self._store):
                if died_here(heartbeat):
                    remove_fetcher_heartbeat(self._store, heartbeat.name)

    def _is_mine(self, uuid: str) -> bool:
        """Whether the job falls to this one of the live fetchers (rendezvous hashing)."""
        return self.name == max(
            self._names, key=lambda name: hashlib.sha256(f"{name}/{uuid}".encode()).digest()
        )

    async def _learn_of(self, uuid: str) -> None:
        pending = await asyncio.to_thread(self.queue.take, uuid)
        if pending is not None:
            self._known[uuid] = None
            url = pending.job.image_url or ""
            self._schedule.add(ScheduledFetch(pending, _host_or_none(url), pending.record.due_at))

    def _forget(self, uuid: str) -> None:
        """Drops a job that was deleted, or that another fetcher has done."""
        self._schedule.discard(uuid)
        task = self._known.pop(uuid)
        if task:
            task.cancel()

    async def _attempt(self, fetch: ScheduledFetch, slot: FetchSlot) -> None:
        """One try, from the first connection until its outcome is stored."""
        slow = asyncio.get_running_loop().call_later(SLOW_AFTER_SECONDS, self._mark_slow, slot)
        try:
            record = await self._fetch_and_store(fetch, slot)
            with about(fetch.uuid):
                logger.info("job %s: %s", fetch.uuid, _log_text(record))
            self._known.pop(fetch.uuid, None)
            if record.state is FetchState.PENDING:
                self._schedule_again(fetch, record)
        except AddressBusy as busy:
            self._schedule_again(replace(fetch, address=busy.address), fetch.pending.record)
        except (StoreError, OSError) as error:  # no fault of the picture's host, so it is no try
            logger.warning(
                "job %s: its picture cannot be stored and is fetched again: %s", fetch.uuid, error
            )
            self._schedule_later(fetch)
        except Exception:  # else nobody would fetch it before the next start
            logger.exception("job %s: its picture is fetched again", fetch.uuid)
            self._schedule_later(fetch)
        finally:
            slow.cancel()
            slot.free()
            self.begin_due()

    def _mark_slow(self, slot: FetchSlot) -> None:
        slot.mark_slow()
        self.begin_due()

    def _schedule_later(self, fetch: ScheduledFetch) -> None:
        due_at = datetime.now(UTC) + timedelta(seconds=STORE_PAUSE_SECONDS)
        self._schedule_again(fetch, replace(fetch.pending.record, due_at=due_at))

    def _schedule_again(self, fetch: ScheduledFetch, record: FetchRecord) -> None:
        self._known[fetch.uuid] = None
        self._schedule.add(
            replace(fetch, pending=replace(fetch.pending, record=record), due_at=record.due_at)
        )

    async def _fetch_and_store(self, fetch: ScheduledFetch, slot: FetchSlot) -> FetchRecord:
        folder = self._settings.data_dir / "fetching"
        folder.mkdir(parents=True, exist_ok=True)
        with SpooledTemporaryFile(max_size=IN_MEMORY_BYTES, dir=str(folder)) as file:
            body = cast(BinaryIO, file)
            record = await self._fetch(fetch, slot, body)
            # Its marker goes in a moment, which is no reason to cancel this.
            self._known[fetch.uuid] = None
            await self._store_outcome(fetch, record, body)
            return record

    async def _fetch(self, fetch: ScheduledFetch, slot: FetchSlot, body: BinaryIO) -> FetchRecord:
        """The record after the try, whatever its outcome."""
        former, url = fetch.pending.record, fetch.pending.job.image_url or ""
        attempt = replace(
            former, attempts=former.attempts + 1, host=fetch.host, address=public_address(url)
        )
        began = time.perf_counter()
        outcome = await self._outcome(fetch, slot, body)
        attempt = replace(attempt, seconds=time.perf_counter() - began)
        if isinstance(outcome, SegPipelineError):
            return self._after_failure(attempt, outcome)
        return replace(
            attempt,
            state=FetchState.FETCHED,
            host=outcome.host,
            address=outcome.address,
            status=outcome.status,
            size=outcome.size,
            sha256=outcome.sha256,
        )

    async def _outcome(
        self, fetch: ScheduledFetch, slot: FetchSlot, body: BinaryIO
    ) -> FetchedBody | SegPipelineError:
        """What came, or why nothing did. Raises AddressBusy or OSError if this was no try."""
        job = fetch.pending.job
        network = PublicNetwork(self._resolver, self._settings.allow_private_urls, slot.connect)
        try:
            with metrics.fetching():
                return await fetch_image(
                    job.image_url or "", body, self._settings, network, self._limits
                )
        except SegPipelineError as error:
            return error
        except (AddressBusy, OSError):
            raise
        except Exception as error:
            logger.exception(
                "job %s: its picture could not be fetched in a way nobody foresaw", job.uuid
            )
            return FetchUnavailable(
                f"an unexpected {type(error).__name__} occurred while it was fetched."
            )

    def _after_failure(self, record: FetchRecord, error: SegPipelineError) -> FetchRecord:
        record = replace(record, status=error.status if isinstance(error, FetchError) else None)
        if not isinstance(error, FetchUnavailable):
            return record.failed(error)
        if record.attempts >= self._settings.fetch_attempts:
            return record.failed(
                FetchGivenUp(f"{str(error).rstrip('.')}; that was try {record.attempts}, the last.")
            )
        pause = growing_pause(record.attempts + 1, LONGEST_PAUSE_SECONDS, self._jitter)
        due_at = datetime.now(UTC) + timedelta(seconds=max(pause, error.retry_after_seconds))
        return replace(record, due_at=due_at, code=error.code, message=str(error))

    async def _store_outcome(
        self, fetch: ScheduledFetch, record: FetchRecord, body: BinaryIO
    ) -> None:
        job = fetch.pending.job
        if record.state is FetchState.FAILED:
            await asyncio.to_thread(self.queue.failed, job, record)
        elif record.state is FetchState.PENDING:
            await asyncio.to_thread(self.queue.retry, job, record)
        else:
            async with self._storing:  # whole pictures are in memory here, and nowhere else
                await asyncio.to_thread(lambda: self.queue.fetched(job, _all_of(body), record))


def _all_of(body: BinaryIO) -> bytes:
    body.seek(0)
    return body.read()


def _host_or_none(url: str) -> str:
    """The host of a URL; empty for a URL that an older version took and that is not valid."""
    try:
        return host_of(url)
    except InvalidUrl:
        return ""


def _log_text(record: FetchRecord) -> str:
    """A try in a few words, without the address."""
    if record.state is FetchState.FETCHED:
        return (
            f"{record.size} bytes from {record.host} in {record.seconds:.2f} s, try"
            f" {record.attempts}"
        )
    next_try = (
        "for good" if record.state is FetchState.FAILED else f"the next at {record.due_at:%H:%M:%S}"
    )
    return f"no picture by try {record.attempts}, {next_try}: {record.message}"


async def _serve(settings: Settings) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    store = open_store(settings)
    reporter = start_reporter(store, "fetcher", settings.heartbeat_seconds)
    await Fetcher(store, settings).run(stopping)
    await asyncio.to_thread(reporter.close)


def main() -> None:
    """Fetches until SIGTERM or SIGINT."""
    configure_logging("fetcher")
    asyncio.new_event_loop().run_until_complete(_serve(get_settings()))
    logging.shutdown()
    # Threads may still wait for a resolver or a bucket, and nobody waits for them.
    os._exit(os.EX_OK)


if __name__ == "__main__":
    main()
