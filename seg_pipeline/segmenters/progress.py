"""How far a model has come with a picture, for whoever asked to be told."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from seg_pipeline.domain import RgbImage

Report = Callable[[RgbImage, int, int], None]
"""Gets the picture that the model was given, the points done and the points in all.

It may be called from several threads. What it raises ends the call of the model.
"""

_report: ContextVar[Report | None] = ContextVar("report", default=None)


@contextmanager
def reported_to(report: Report) -> Iterator[None]:
    """Has the models that this thread calls in the block report their points."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


class PointsDone:
    """Counts the points of one picture. Make it in the thread that called the model."""

    def __init__(self, image: RgbImage, total: int) -> None:
        self._image, self._total, self._done = image, total, 0
        self._report = _report.get()
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        """Adds points, and reports. Any thread may call it."""
        with self._lock:
            self._done += count
            done = self._done
        if self._report:
            self._report(self._image, done, self._total)
