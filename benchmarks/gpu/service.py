"""The whole service with its model on the device: jobs a second, and who is busy with them."""

import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean

from benchmarks.bursts import Burst, queue_all
from benchmarks.gpu.findings import Agreement, Asked, Finding
from benchmarks.gpu.utilisation import watched
from benchmarks.pictures import write_scenes
from benchmarks.running_stack import RunningStack, running_stack
from benchmarks.tables import Row
from seg_pipeline.jobs.heartbeats import live_workers
from seg_pipeline.local.gpus import usable_gpus, workers_for
from seg_pipeline.local.processes import usable_cores
from seg_pipeline.store import open_store

MODEL = "demo-yolo"
TARGET = 120
LOADING_SECONDS = 60
DIFFERENT = 50


def measure(asked: Asked) -> Iterator[Finding]:
    """Bursts of `demo-yolo` at 1280x720, with one worker and with those of `make run`."""
    scenes = write_scenes(
        asked.folder / "pictures", asked.scaled(DIFFERENT, 2), width=1280, height=720
    )
    pictures = [*islice(cycle(scenes), asked.scaled(400, 6))]
    for workers in (1,) if asked.short else sorted({1, by_itself(asked.device)}):
        yield from _served(asked, workers, pictures)


def by_itself(device: str) -> int:
    """The workers that `make run` starts here if nobody sets a number."""
    gpus = usable_gpus(device)
    return workers_for(gpus, usable_cores()) if gpus else 1


def _served(asked: Asked, workers: int, pictures: Sequence[Path]) -> Iterator[Finding]:
    folder = asked.folder / f"stack-{workers}"
    with running_stack(
        folder, MODEL, device=asked.device, workers=workers, warm_models=MODEL
    ) as stack:
        _wait_for_models(stack, workers)
        queue_all(stack, pictures[: 16 * workers])
        with watched() as samples:
            burst = queue_all(stack, pictures)
    yield _rate(burst, workers)
    yield Agreement(f"{_count(workers)}: all jobs end well", burst.jobs == len(pictures))
    if samples:
        busy, used = (fmean(values) for values in zip(*samples, strict=True))
        yield Row(f"{_count(workers)}: the GPU", f"{busy:.0f} % busy", f"{used:.0f} MB in use")


def _wait_for_models(stack: RunningStack, workers: int) -> None:
    """Returns once each worker has its model: CUDA takes seconds to begin, which are no job's."""
    store, end = open_store(stack.settings), time.monotonic() + LOADING_SECONDS
    while sum(MODEL in beat.models for beat in live_workers(store)) < workers:
        if time.monotonic() > end:
            raise TimeoutError(f"{MODEL} is not loaded everywhere after {LOADING_SECONDS} s")
        time.sleep(0.5)


def _count(workers: int) -> str:
    return "1 worker" if workers == 1 else f"{workers} workers"


def _rate(burst: Burst, workers: int) -> Row:
    cpu = f"{1000 * burst.cpu_seconds / burst.jobs:.0f} ms of CPU a job in all processes"
    cores = f"{burst.cpu_seconds / burst.seconds:.1f} cores busy"
    return Row(
        f"{MODEL} at 1280x720, {_count(workers)}: jobs a second",
        f"{burst.jobs / burst.seconds:.1f}",
        f"{burst.jobs} jobs in {burst.seconds:.1f} s, {cpu}, {cores}",
        f"{TARGET}" if workers > 1 else "",
    )
