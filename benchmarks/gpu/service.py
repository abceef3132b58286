"""The whole service with its model on the device: jobs a second, and who is busy with them."""

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean

from benchmarks.bursts import Burst, queue_all
from benchmarks.gpu.findings import Agreement, Asked, Finding
from benchmarks.gpu.utilisation import watched
from benchmarks.pictures import write_scenes
from benchmarks.running_stack import running_stack
from benchmarks.tables import Row
from seg_pipeline.local.gpus import usable_gpus, workers_for
from seg_pipeline.local.processes import usable_cores

TARGET = 120
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
    with running_stack(folder, "demo-yolo", device=asked.device, workers=workers) as stack:
        queue_all(stack, pictures[: 16 * workers])
        with watched() as samples:
            burst = queue_all(stack, pictures)
    yield _rate(burst, workers)
    yield Agreement(f"{workers} worker(s): all jobs end well", burst.jobs == len(pictures))
    if samples:
        busy, used = (fmean(values) for values in zip(*samples, strict=True))
        yield Row(f"{workers} worker(s): the GPU", f"{busy:.0f} % busy", f"{used:.0f} MB in use")


def _rate(burst: Burst, workers: int) -> Row:
    cpu = f"{1000 * burst.cpu_seconds / burst.jobs:.0f} ms of CPU a job in all processes"
    cores = f"{burst.cpu_seconds / burst.seconds:.1f} cores busy"
    return Row(
        f"demo-yolo at 1280x720, {workers} worker(s): jobs a second",
        f"{burst.jobs / burst.seconds:.1f}",
        f"{burst.jobs} jobs in {burst.seconds:.1f} s, {cpu}, {cores}",
        f"{TARGET}" if workers > 1 else "",
    )
