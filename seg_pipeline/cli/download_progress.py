"""The progress of a download: a bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

MILESTONES = 10
MILESTONE_SECONDS = 10


@contextmanager
def shown_progress(say: Callable[[str], None]) -> Iterator["Bars | Milestones"]:
    """Shows downloads while the block runs.

    It yields what is called with the name, the bytes so far and the total bytes. That draws bars if
    standard output is a terminal that can show them. Else it prints lines by `say`.
    """
    console = Console()
    if not sys.stdout.isatty() or console.is_dumb_terminal:
        yield Milestones(say)
        return
    with _columns(console) as drawing:
        yield Bars(drawing)


class Milestones:
    """Prints a line for each tenth of a download, or every ten seconds."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._next: dict[str, tuple[float, float]] = {}

    def __call__(self, name: str, done_bytes: int, total_bytes: int | None) -> None:
        """Takes the bytes so far."""
        now = time.monotonic()
        share = done_bytes / total_bytes if total_bytes else 0.0
        next_share, next_at = self._next.get(name, (0.0, now))
        if share < next_share and now < next_at:
            return
        self._next[name] = ((int(share * MILESTONES) + 1) / MILESTONES, now + MILESTONE_SECONDS)
        of_total = f" of {total_bytes / 1e6:.0f}" if total_bytes else ""
        self._say(f"downloading {name}: {done_bytes / 1e6:.0f}{of_total} MB")


class Bars:
    """Draws a bar for each download, with its bytes, speed, time left and where it was resumed."""

    def __init__(self, drawing: Progress) -> None:
        self._drawing = drawing
        self._tasks: dict[str, TaskID] = {}
        self._last_bytes: dict[str, int] = {}

    def __call__(self, name: str, done_bytes: int, total_bytes: int | None) -> None:
        """Takes the bytes so far. A new try begins where the last one ended, or before."""
        if name not in self._tasks:
            self._tasks[name] = self._drawing.add_task(
                name, total=total_bytes, completed=done_bytes, note=""
            )
            self._last_bytes[name] = done_bytes
        if done_bytes <= self._last_bytes[name] and done_bytes != total_bytes:
            note = f"resumed at {done_bytes / 1e6:.1f} MB" if done_bytes else ""
            self._drawing.update(self._tasks[name], note=note)
        self._last_bytes[name] = done_bytes
        self._drawing.update(self._tasks[name], completed=done_bytes, total=total_bytes)


def _columns(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
        console=console,
        expand=True,
    )
