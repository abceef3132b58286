"""Models that stay loaded: one of each name in a process, lent to one borrower at a time."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from seg_pipeline.segmenters import Segmenter
from seg_pipeline.segmenters.tiling import load_tiled_segmenter
from seg_pipeline.settings import Settings
from seg_pipeline.telemetry import metrics

MAX_LOADED = 2
"""More models than this are not kept at once; the one unused for longest goes first."""

logger = logging.getLogger(__name__)


@dataclass
class _Place:
    """Where one model stands; whoever holds the lock may use, load or unload it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    segmenter: Segmenter | None = None
    last_used: float = 0.0


class WarmModels:
    """The loaded models of this process."""

    def __init__(
        self,
        settings: Settings,
        load: Callable[[str, Settings], Segmenter] = load_tiled_segmenter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._load = load
        self._loading = threading.RLock()
        self._clock = clock
        self._places: dict[str, _Place] = {}
        self._guard = threading.Lock()

    @contextmanager
    def borrow(self, name: str) -> Iterator[Segmenter]:
        """The model, loaded if it was not; others who want the same one wait. It is not unloaded
        meanwhile.

        Raises what `load_segmenter` raises; the next borrower tries again.
        """
        with self._guard:
            place = self._places.setdefault(name, _Place())
        with place.lock:
            if place.segmenter is None:
                self._make_room(name)
                with self._loading, metrics.MODEL_LOAD_SECONDS.labels(name).time():
                    place.segmenter = self._load(name, self._settings)
                logger.info("loaded %s on %s", name, place.segmenter.device)
            try:
                yield place.segmenter
            finally:
                place.last_used = self._clock()

    @contextmanager
    def not_loading(self) -> Iterator[bool]:
        """Whether no model is being loaded, and none will be meanwhile. Who interrupts the thread
        that loads leaves libraries half imported, which no later import mends."""
        free = self._loading.acquire(blocking=False)
        try:
            yield free
        finally:
            if free:
                self._loading.release()

    def unload_idle(self, now: float | None = None) -> list[str]:
        """Unloads the models unused for `idle_unload_seconds`, those in use excepted; which they
        were.

        `now` is on the clock given at construction, monotonic by default.
        """
        limit = self._settings.idle_unload_seconds
        if limit == 0:
            return []
        used_before = (self._clock() if now is None else now) - limit
        return [name for name, _ in self._standing() if self._unload(name, used_before)]

    def loaded(self) -> list[str]:
        """Names of the models that are loaded, sorted."""
        return sorted(name for name, _ in self._standing())

    def close(self) -> None:
        """Unloads everything, waiting for borrowers to finish."""
        for name, _ in self._standing():
            self._unload(name, wait=True)

    def _standing(self) -> list[tuple[str, _Place]]:
        with self._guard:
            return [
                (name, place) for name, place in self._places.items() if place.segmenter is not None
            ]

    def _make_room(self, name: str) -> None:
        others = sorted(
            (place.last_used, other) for other, place in self._standing() if other != name
        )
        surplus = len(others) - (MAX_LOADED - 1)
        for _, other in others:
            if surplus > 0 and self._unload(other):
                surplus -= 1

    def _unload(self, name: str, used_before: float = math.inf, wait: bool = False) -> bool:
        """Whether it was unloaded: one in use, or used since, is left alone."""
        place = self._places[name]
        if not place.lock.acquire(blocking=wait):
            return False
        try:
            segmenter = place.segmenter
            if segmenter is None or place.last_used > used_before:
                return False
            place.segmenter = None
            segmenter.close()
            logger.info("unloaded %s", name)
            return True
        finally:
            place.lock.release()
