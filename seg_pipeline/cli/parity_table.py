"""Prints the table of `seg-pipeline parity`: may turbo run here, and what was measured."""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple

from rich.console import Console
from rich.table import Table

from seg_pipeline.segmenters.parity.gate import ParityVerdict, Subject
from seg_pipeline.segmenters.registry import parity_verdict
from seg_pipeline.settings import Settings

MILESTONE = 5
"""Pictures between two lines of progress."""


def report_parity(
    names: Iterable[str],
    settings: Settings,
    say: Callable[[str], None],
    again: bool = False,
    with_upstream: bool = False,
) -> bool:
    """Prints the table. Returns whether turbo may run for all models. Raises ModelError."""
    verdicts = [
        parity_verdict(name, settings, Counter(name, say), again, with_upstream) for name in names
    ]
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
    """The table, with a row for each model and mode that was compared with exact."""
    columns = (
        "model",
        "device",
        "mode",
        "pictures",
        "masks",
        "mean IoU",
        "other counts",
        "exact",
        "this mode",
        "speed-up",
    )
    shown = Table(*columns, "verdict", box=None, pad_edge=False)
    for subject, verdict in verdicts:
        for mode, pairs, mean_iou, others, seconds in _rows(verdict):
            figures = (
                str(verdict.pictures), str(pairs), f"{mean_iou:.4f}", str(others),
                f"{verdict.exact_seconds:.1f} s", f"{seconds:.1f} s",
                f"{verdict.exact_seconds / seconds if seconds else 0:.2f}x",
            )  # fmt: skip
            runs = "on" if verdict.runs == mode else "off"
            shown.add_row(subject.model, subject.device, mode, *figures, runs)
    return shown


def _rows(verdict: ParityVerdict) -> Iterator[tuple[str, int, float, int, float]]:
    """Mode, pairs, their mean IoU, pictures with others, and seconds."""
    yield "turbo", verdict.pairs, verdict.mean_iou, verdict.others, verdict.turbo_seconds
    if verdict.upstream:
        yield ("upstream", *astuple(verdict.upstream))


def sentence(verdict: ParityVerdict) -> str:
    """The verdict in words."""
    if verdict.refusal is None:
        return "turbo may run; INFERENCE_MODE=turbo turns it on"
    instead = "; upstream's own code runs" if verdict.runs == "upstream" else ""
    return f"turbo stays off: {verdict.refusal}{instead}"
