"""What is spent on a picture that is neither its decoding, nor the model, nor its encoding.

The CPU seconds of every process of the product over a burst of pictures, the intake of the uploads
and all polling included, less those of a bare loop over the same pictures.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.bare_loop import run_bare_loop
from benchmarks.bursts import queue_all
from benchmarks.options import Options
from benchmarks.pictures import write_scenes
from benchmarks.progress import say
from benchmarks.running_stack import RunningStack, running_stack
from benchmarks.tables import Row, row_of

BATCH = 8


def measure(options: Options) -> list[Row]:
    """CPU milliseconds a picture, in runs of eight."""
    pictures = write_scenes(
        options.folder / "pictures", options.scaled(160, 40), width=256, height=256
    )
    with running_stack(options.folder / "stack", "demo-yolo", batch_size=BATCH) as stack:
        queue_all(stack, pictures[: 2 * BATCH])
        spent = [
            _round(stack, options.folder / "bare", pictures) for _ in range(options.scaled(5, 2))
        ]
    of_all, of_loop = zip(*spent, strict=True)
    return [
        row_of(f"CPU a picture for orchestration, in runs of {BATCH}", [a - b for a, b in spent],
               "ms", "60 ms"),
        row_of("all of the product's CPU a picture in these", of_all, "ms"),
        row_of("a bare loop's", of_loop, "ms"),
    ]  # fmt: skip


def _round(stack: RunningStack, out: Path, pictures: Sequence[Path]) -> tuple[float, float]:
    burst, loop = queue_all(stack, pictures), run_bare_loop("demo-yolo", out, pictures)
    spent = (1000 * burst.cpu_seconds / len(pictures), 1000 * loop.cpu_seconds / len(pictures))
    say(f"orchestration: CPU a picture {spent[0]:.0f} ms, in a bare loop {spent[1]:.0f} ms")
    return spent
