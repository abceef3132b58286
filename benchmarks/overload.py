"""What the API holds: many uploads, large ones, silent and slow connections. Its peak memory, and
who got what."""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from benchmarks.crowds import (
    HALF_A_BODY,
    HALF_A_HEAD,
    SILENT,
    Answer,
    ask,
    holding,
    outcomes,
    upload_at_once,
)
from benchmarks.options import Options
from benchmarks.tables import Row
from seg_pipeline.local.servers import free_port
from seg_pipeline.settings import Settings
from seg_pipeline.store import keys, open_store

MIB = 2**20
LARGE_BYTES = 32 * MIB
PROBES = ("/livez", "/health", "/metrics", "/jobs?limit=1")


@dataclass(frozen=True)
class ServedApi:
    """An API process of its own."""

    url: str
    pid: int
    settings: Settings

    def peak_megabytes(self) -> float:
        """The most memory that was resident since the last call; Linux alone tells and forgets
        it."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        match = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert match
        return int(match[1]) / 1024

    def lost(self, answers: list[Answer], body: bytes) -> int:
        """How many were accepted and do not wait with their bytes."""
        store = open_store(self.settings)
        waiting = {info.key.removeprefix(keys.INBOX) for info in store.list(keys.INBOX)}
        accepted = [answer.uuid for answer in answers if answer.is_accepted]
        sizes = [
            info.size if (info := store.head(keys.source(uuid, "png"))) else 0 for uuid in accepted
        ]
        return sum(
            uuid not in waiting or size != len(body)
            for uuid, size in zip(accepted, sizes, strict=True)
        )


@contextmanager
def served_api(folder: Path, **values: str) -> Iterator[ServedApi]:
    """The API alone, without a worker: what it accepts waits."""
    port = free_port()
    environment = {
        **os.environ,
        "DATA_DIR": str(folder),
        "API_PORT": str(port),
        "MODEL": "demo-yolo",
        **values,
    }
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "api.main"], env=environment, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        _until_it_answers(url)
        yield ServedApi(url, process.pid, Settings(_env_file=None, data_dir=folder))
    finally:
        process.terminate()
        process.wait(timeout=60)


def measure(options: Options) -> list[Row]:
    """Each crowd in turn, on one process."""
    options.folder.mkdir(parents=True, exist_ok=True)
    many, small = options.scaled(1000, 100), noise_png(180)
    with served_api(options.folder / "data") as api:
        rows = [Row("the API at rest", f"{api.peak_megabytes():.0f} MB")]
        for name, beginning, drip in (
            ("silent connections", SILENT, b""),
            ("half a head each", HALF_A_HEAD, b""),
            ("a byte of a body a second each", HALF_A_BODY, b"x"),
        ):
            rows.append(asyncio.run(_besides(api, f"{many} x {name}", many, beginning, drip)))
        for count, body in (
            (many // 2, small),
            (many, small),
            (8, padded(LARGE_BYTES)),
            (24, padded(LARGE_BYTES)),
        ):
            rows.append(asyncio.run(_uploads(api, count, body)))
        rows.append(
            asyncio.run(_uploads(api, 3, empty_segments(LARGE_BYTES), "JPEG of empty segments"))
        )
    return rows


def noise_png(side: int) -> bytes:
    """A PNG that does not compress, the same every time: of 180 pixels a side it has some 100
    KB."""
    buffer = BytesIO()
    Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    ).save(buffer, "PNG")
    return buffer.getvalue()


def padded(size: int) -> bytes:
    """A picture of so many bytes; what is behind its end is kept and not looked at."""
    return noise_png(32).ljust(size, b"\0")


def empty_segments(size: int) -> bytes:
    """A JPEG whose header is next to endless."""
    buffer = BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG")
    whole = buffer.getvalue()
    return whole[:2] + b"\xff\xee\x00\x02" * ((size - len(whole)) // 4) + whole[2:]


async def _besides(api: ServedApi, name: str, count: int, beginning: bytes, drip: bytes) -> Row:
    """What others get while these connections are held; an upload may have to wait until a slow one
    gives way."""
    async with holding(api.url, count, beginning, drip):
        await asyncio.sleep(2)
        probes = [await ask(api.url, path) for path in PROBES]
        began = time.monotonic()
        await _until_accepted(
            lambda: upload_at_once(api.url, [f"besides-{time.time_ns()}"], noise_png(32))
        )
        seconds = time.monotonic() - began
    note = (
        f"{probes.count(200)} of {len(probes)} probes answered 200, an upload accepted after"
        f" {seconds:.1f} s"
    )
    return Row(name, f"{api.peak_megabytes():.0f} MB", note, "300 MB")


async def _until_accepted(upload: Callable[[], Awaitable[list[Answer]]]) -> None:
    for _ in range(120):
        if (await upload())[0].is_accepted:
            return
        await asyncio.sleep(0.5)


async def _uploads(api: ServedApi, count: int, body: bytes, what: str = "uploads at once") -> Row:
    began = time.monotonic()
    answers = await upload_at_once(
        api.url, [f"job-{time.time_ns()}-{index}" for index in range(count)], body
    )
    seconds = time.monotonic() - began
    counts = ", ".join(
        f"{number} {outcome}" for outcome, number in sorted(outcomes(answers).items())
    )
    note = f"{counts} within {seconds:.1f} s; of the accepted {api.lost(answers, body)} lost"
    name = f"{count} x {what}, {len(body) / MIB:.1f} MB each"
    return Row(name, f"{api.peak_megabytes():.0f} MB", note, "300 MB")


def _until_it_answers(url: str) -> None:
    for _ in range(600):
        try:
            if httpx.get(f"{url}/livez", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise SystemExit("the API did not start within a minute")
