"""Many pictures queued at once, against a bare loop over the same pictures with the same model."""

import statistics
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

from benchmarks.bare_loop import Loop, run_bare_loop
from benchmarks.bursts import Burst, queue_all
from benchmarks.options import Options
from benchmarks.pictures import write_scenes
from benchmarks.progress import say
from benchmarks.running_stack import RunningStack, running_stack
from benchmarks.tables import Row, row_of
from benchmarks.untrained_yolo import untrained_yolo

WARM_UP = 16
DIFFERENT = 100


def measure(options: Options) -> list[Row]:
    """The service's throughput over that of the loop, round by round, with an untrained
    `yolov8n-seg`."""
    model = str(untrained_yolo(options.models))
    scenes = cycle(write_scenes(options.folder / "pictures", options.scaled(DIFFERENT, 48)))
    pictures = [*islice(scenes, options.scaled(options.pictures, 48))]
    with running_stack(options.folder / "stack", model) as stack:
        queue_all(stack, pictures[:WARM_UP])
        pairs = [
            _round(stack, options.folder / "bare", pictures)
            for _ in range(options.scaled(options.rounds, 1))
        ]
    ratios = [loop.seconds / burst.seconds for burst, loop in pairs]
    seconds = ", ".join(f"{burst.seconds:.1f} and {loop.seconds:.1f} s" for burst, loop in pairs)
    segments = statistics.mean(loop.segments for _, loop in pairs) / len(pictures)
    return [
        row_of(f"{len(pictures)} pictures queued at once: pictures a second, over a bare loop's",
               ratios, "", "0.9",
               f"{seconds}; {segments:.1f} segments a picture"),
    ]  # fmt: skip


def _round(stack: RunningStack, out: Path, pictures: Sequence[Path]) -> tuple[Burst, Loop]:
    burst = queue_all(stack, pictures)
    loop = run_bare_loop(stack.settings.model, out, pictures)
    say(f"throughput: the service {burst.seconds:.1f} s, the bare loop {loop.seconds:.1f} s")
    return burst, loop
