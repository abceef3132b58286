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
"""The most models that are kept at once. The one unused for longest goes first."""

logger = logging.getLogger(__name__)


@dataclass
class _Slot:
    """The state of one model. Only the holder of the lock may use, load or unload it."""

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
        self._slots: dict[str, _Slot] = {}
        self._guard = threading.Lock()

    @contextmanager
    def borrow(self, name: str) -> Iterator[Segmenter]:
        """The model, loaded if it was not. Other borrowers of the same model wait.

        It is not unloaded meanwhile. Raises what `load_segmenter` raises; the next borrower tries
        again.
        """
        with self._guard:
            slot = self._slots.setdefault(name, _Slot())
        with slot.lock:
            if slot.segmenter is None:
                self._make_room(name)
                with self._loading, metrics.MODEL_LOAD_SECONDS.labels(name).time():
                    slot.segmenter = self._load(name, self._settings)
                logger.info("loaded %s on %s", name, slot.segmenter.device)
            try:
                yield slot.segmenter
            finally:
                slot.last_used = self._clock()

    @contextmanager
    def not_loading(self) -> Iterator[bool]:
        """Whether no model is loading. None begins to load within the block.

        An interrupt of the loading thread would leave libraries half imported, which no later
        import repairs.
        """
        free = self._loading.acquire(blocking=False)
        try:
            yield free
        finally:
            if free:
                self._loading.release()

    def unload_idle(self, now: float | None = None) -> list[str]:
        """Unloads the idle models and returns their names.

        Idle means unused for `idle_unload_seconds`, and not borrowed. `now` is on the clock given
        at construction, monotonic by default.
        """
        limit = self._settings.idle_unload_seconds
        if limit == 0:
            return []
        used_before = (self._clock() if now is None else now) - limit
        return [name for name, _ in self._loaded_slots() if self._unload(name, used_before)]

    def loaded(self) -> list[str]:
        """The names of the loaded models, sorted."""
        return sorted(name for name, _ in self._loaded_slots())

    def close(self) -> None:
        """Unloads every model, and waits for borrowers to finish."""
        for name, _ in self._loaded_slots():
            self._unload(name, wait=True)

    def _loaded_slots(self) -> list[tuple[str, _Slot]]:
        with self._guard:
            return [
                (name, slot) for name, slot in self._slots.items() if slot.segmenter is not None
            ]

    def _make_room(self, name: str) -> None:
        others = sorted(
            (slot.last_used, other) for other, slot in self._loaded_slots() if other != name
        )
        surplus = len(others) - (MAX_LOADED - 1)
        for _, other in others:
            if surplus > 0 and self._unload(other):
                surplus -= 1

    def _unload(self, name: str, used_before: float = math.inf, wait: bool = False) -> bool:
        """Unloads the model unless it is in use or was used since. Returns whether it did."""
        slot = self._slots[name]
        if not slot.lock.acquire(blocking=wait):
            return False
        try:
            segmenter = slot.segmenter
            if segmenter is None or slot.last_used > used_before:
                return False
            slot.segmenter = None
            segmenter.close()
            logger.info("unloaded %s", name)
            return True
        finally:
            slot.lock.release()
