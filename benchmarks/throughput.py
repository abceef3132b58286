"""Many pictures queued at once, against a bare loop over the same pictures with the same model."""

import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from benchmarks.running_stack import RunningStack
from benchmarks.tables import Row
from seg_pipeline.stack import usable_cores

SENDERS = 4
GIVE_UP_SECONDS = 1800


def measure(stack: RunningStack, pictures: Sequence[Path], rounds: int) -> list[Row]:
    """The ratio of both total times, round by round."""
    pairs = [(_queue_all(stack, pictures), _bare_loop(stack, pictures)) for _ in range(rounds)]
    ratios = [service / bare for service, bare in pairs]
    seconds = ", ".join(f"{service:.1f} / {bare:.1f} s" for service, bare in pairs)
    return [
        Row(f"{len(pictures)} pictures queued at once, over a bare loop", f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f} ({seconds})", "1.25"),
    ]  # fmt: skip


def _queue_all(stack: RunningStack, pictures: Sequence[Path]) -> float:
    """Seconds from the first POST to the last result."""
    done = stack.settings.data_dir / "state" / "done" / "completed"
    round_name = secrets.token_hex(4)
    uuids = [f"{round_name}-{index}" for index in range(len(pictures))]
    begin = time.perf_counter()
    with httpx.Client(base_url=stack.url, timeout=60) as client, ThreadPoolExecutor(SENDERS) as senders:
        list(senders.map(lambda pair: _queue(client, *pair), zip(uuids, pictures, strict=True)))
    while sum(name.startswith(round_name) for name in os.listdir(done)) < len(pictures):
        if time.perf_counter() - begin > GIVE_UP_SECONDS:
            raise SystemExit("the queue was not worked off in time")
        time.sleep(0.05)
    return time.perf_counter() - begin


def _queue(client: httpx.Client, uuid: str, picture: Path) -> None:
    answer = client.post("/segment", params={"uuid": uuid}, content=picture.read_bytes(),
                         headers={"Prefer": "respond-async"})  # fmt: skip
    if answer.status_code != 202:
        raise SystemExit(f"{picture.name}: {answer.status_code} {answer.text}")


def _bare_loop(stack: RunningStack, pictures: Sequence[Path]) -> float:
    out = stack.settings.data_dir.parent / "bare"
    command = [sys.executable, "-m", "benchmarks.bare_loop", stack.settings.model, str(out), *map(str, pictures)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(usable_cores())}
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
