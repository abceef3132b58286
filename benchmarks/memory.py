"""Whether the worker grows: its resident memory after hundreds and after thousands of pictures of
all sizes."""

import random
from collections.abc import Sequence
from itertools import cycle, islice, pairwise
from pathlib import Path

from benchmarks.bursts import queue_all
from benchmarks.options import Options
from benchmarks.pictures import write_scenes
from benchmarks.progress import say
from benchmarks.running_stack import running_stack
from benchmarks.tables import Row

MARKS = (100, 500, 1_000, 2_000)
QUICK_MARKS = (20, 60)
DIFFERENT = 60


def measure(options: Options) -> list[Row]:
    """The worker's resident memory at each mark."""
    pictures = cycle(_pictures_of_all_sizes(options.folder))
    marks = QUICK_MARKS if options.quick else MARKS
    sizes = []
    with running_stack(options.folder / "stack", options.model) as stack:
        for done, mark in pairwise((0, *marks)):
            queue_all(stack, [*islice(pictures, mark - done)])
            sizes.append(stack.worker().memory_info().rss / 2**20)
            say(f"memory: {sizes[-1]:.0f} MB after {mark} pictures")
    return _rows(marks, sizes)


def _rows(marks: Sequence[int], sizes: Sequence[float]) -> list[Row]:
    at_marks = ", ".join(
        f"{size:.0f} MB at {mark}" for mark, size in zip(marks, sizes, strict=True)
    )
    figure = f"the worker's memory after {marks[-1]} pictures, over that after {marks[1]}"
    return [Row(figure, f"{sizes[-1] / sizes[1]:.2f}", at_marks, "flat")]


def _pictures_of_all_sizes(folder: Path) -> list[Path]:
    """Scenes from 320 to 1,600 pixels wide, so that the allocator gets no rest."""
    sides = random.Random(0)
    sizes = [(sides.randrange(320, 1_600), sides.randrange(240, 1_200)) for _ in range(DIFFERENT)]
    return [
        write_scenes(folder / str(i), 1, width, height)[0]
        for i, (width, height) in enumerate(sizes)
    ]
