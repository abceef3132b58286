"""Prints the table of `seg-pipeline parity`: may turbo run here, and what was measured."""

import sys
from collections.abc import Callable, Iterable

from rich.console import Console
from rich.table import Table

from seg_pipeline.segmenters.parity.gate import ParityVerdict, Subject
from seg_pipeline.segmenters.registry import parity_verdict
from seg_pipeline.settings import Settings

MILESTONE = 5
"""Pictures between two lines of progress."""


def report_parity(
    names: Iterable[str], settings: Settings, again: bool, say: Callable[[str], None]
) -> bool:
    """Prints the table. Returns whether turbo may run for all models. Raises ModelError."""
    verdicts = [parity_verdict(name, settings, Counter(name, say), again) for name in names]
    Console(width=None if sys.stdout.isatty() else 160).print(table(verdicts))
    for subject, verdict in verdicts:
        say(f"{subject.model}: {sentence(verdict)}")
    return all(verdict.accepted for _, verdict in verdicts)


class Counter:
    """Prints now and then how many pictures are compared."""

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self._name, self._say, self._said = name, say, 0

    def __call__(self, done: int, total: int) -> None:
        """Takes the number of pictures done."""
        if done - self._said >= MILESTONE or done == total:
            self._say(f"{self._name}: {done} of {total} pictures compared")
            self._said = done


def table(verdicts: Iterable[tuple[Subject, ParityVerdict]]) -> Table:
    """The table, with a row for each model."""
    columns = (
        "model",
        "device",
        "mode",
        "pictures",
        "masks",
        "mean IoU",
        "other counts",
        "exact",
        "turbo",
        "speed-up",
    )
    shown = Table(*columns, "verdict", box=None, pad_edge=False)
    for subject, verdict in verdicts:
        figures = (
            str(verdict.pictures), str(verdict.pairs), f"{verdict.mean_iou:.4f}",
            str(verdict.others),
            f"{verdict.exact_seconds:.1f} s", f"{verdict.turbo_seconds:.1f} s",
            f"{verdict.speed_up:.2f}x",
        )  # fmt: skip
        shown.add_row(
            subject.model, subject.device, "turbo", *figures, "on" if verdict.accepted else "off"
        )
    return shown


def sentence(verdict: ParityVerdict) -> str:
    """The verdict in words."""
    if verdict.refusal is None:
        return "turbo may run; INFERENCE_MODE=turbo turns it on"
    return f"turbo stays off: {verdict.refusal}"
