"""Many pictures queued at once through the API, and one picture at a time."""

import math
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.running_stack import RunningStack

SENDERS = 4
GIVE_UP_SECONDS = 1800
NOTHING_FOUND = {"error": "No masks found"}
"""What the service answers, as the first of its forerunners meant to."""


@dataclass(frozen=True)
class Burst:
    """What a burst took, from the first POST to the last result: seconds, and CPU seconds of all
    processes."""

    jobs: int
    seconds: float
    cpu_seconds: float


def queue_all(stack: RunningStack, pictures: Sequence[Path]) -> Burst:
    """Sends the pictures as fast as they are accepted, and waits for the last result."""
    name = secrets.token_hex(4)
    uuids = [f"{name}-{index}" for index in range(len(pictures))]
    cpu_before, begin = stack.cpu_seconds(), time.perf_counter()
    with (
        httpx.Client(base_url=stack.url, timeout=60) as client,
        ThreadPoolExecutor(SENDERS) as senders,
    ):
        list(senders.map(lambda pair: queue_one(client, *pair), zip(uuids, pictures, strict=True)))
    _await(stack, uuids, begin)
    return Burst(len(uuids), time.perf_counter() - begin, stack.cpu_seconds() - cpu_before)


def queue_one(client: httpx.Client, uuid: str, picture: Path) -> None:
    """Sends a picture and does not wait for its result."""
    answer = client.post("/segment", params={"uuid": uuid}, content=picture.read_bytes(),
                         headers={"Prefer": "respond-async"})  # fmt: skip
    if answer.status_code != 202:
        raise SystemExit(f"{picture.name}: {answer.status_code} {answer.text}")


def _await(stack: RunningStack, uuids: Sequence[str], begin: float) -> None:
    """One by one, so that it costs as little after ten thousand jobs as after none."""
    for uuid in uuids:
        while not stack.has_finished(uuid):
            if time.perf_counter() - begin > GIVE_UP_SECONDS:
                raise SystemExit("the queue was not worked off in time")
            time.sleep(0.02)


def send_one(client: httpx.Client, picture: Path) -> tuple[float, float]:
    """Seconds from POST to answer of a lone picture, and those of them that the model took; not a
    number where it found nothing, since that answer does not tell."""
    begin = time.perf_counter()
    answer = client.post("/segment", content=picture.read_bytes())
    total = time.perf_counter() - begin
    if answer.status_code == 400 and answer.json() == NOTHING_FOUND:
        return total, math.nan
    if answer.status_code != 200:
        raise SystemExit(f"{picture.name}: {answer.status_code} {answer.text}")
    return total, float(answer.json()["seconds"]["segments"])
