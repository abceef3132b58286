"""What `seg-pipeline parity` prints: for each model whether turbo may run here, and what was
measured."""

import sys
from collections.abc import Callable, Iterable

from rich.console import Console
from rich.table import Table

from seg_pipeline.segmenters.parity.gate import ParityVerdict, Subject
from seg_pipeline.segmenters.registry import parity_verdict
from seg_pipeline.settings import Settings

MILESTONE = 5
"""Pictures between two lines about the progress."""


def report_parity(
    names: Iterable[str], settings: Settings, again: bool, say: Callable[[str], None]
) -> bool:
    """Prints the table; whether turbo may run for all of these models. Raises ModelError."""
    found = [parity_verdict(name, settings, Counter(name, say), again) for name in names]
    Console(width=None if sys.stdout.isatty() else 160).print(table(found))
    for subject, verdict in found:
        say(f"{subject.model}: {sentence(verdict)}")
    return all(verdict.accepted for _, verdict in found)


class Counter:
    """Says now and then how many pictures are compared."""

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self._name, self._say, self._said = name, say, 0

    def __call__(self, done: int, total: int) -> None:
        """Takes note of the pictures that are done."""
        if done - self._said >= MILESTONE or done == total:
            self._say(f"{self._name}: {done} of {total} pictures compared")
            self._said = done


def table(found: Iterable[tuple[Subject, ParityVerdict]]) -> Table:
    """A line for each model."""
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
    for subject, verdict in found:
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
