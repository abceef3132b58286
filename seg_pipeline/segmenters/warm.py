"""Models that stay loaded: one of each name in a process, lent to one borrower at a time."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from seg_pipeline.domain import parts_of, resolved_model
from seg_pipeline.errors import DeviceBroken, ModelOutOfMemory, SegPipelineError
from seg_pipeline.segmenters import Segmenter
from seg_pipeline.segmenters.named_masks import NamedMasks
from seg_pipeline.segmenters.tiling import load_tiled_segmenter
from seg_pipeline.settings import Settings, listed
from seg_pipeline.telemetry import metrics

MAX_LOADED = 2
"""The most models that are kept at once on a CPU. The one unused for longest goes first."""

ROOM_BYTES = 6 * 2**30
"""The memory that must be free on a GPU before a model is loaded: for it, and for its pictures.

The peak of `sam2.1_hiera_large` is 3.3 to 5.5 GB.
"""

T = TypeVar("T")

logger = logging.getLogger(__name__)


def free_device_memory(device: str) -> int | None:
    """The bytes that are free on the GPU that DEVICE leads to; None for a CPU."""
    if device == "cpu":
        return None
    from seg_pipeline.segmenters.devices import free_memory, pick_device

    return free_memory(pick_device(device))


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
        free_memory: Callable[[str], int | None] = free_device_memory,
    ) -> None:
        self._settings = settings
        self._load = load
        self._loading = threading.RLock()
        self._clock = clock
        self._free_memory = free_memory
        self._warm = frozenset(
            part
            for name in listed(settings.warm_models)
            for part in parts_of(resolved_model(name, settings.offered_models))
        )
        self._slots: dict[str, _Slot] = {}
        self._guard = threading.Lock()

    @contextmanager
    def borrow(self, name: str) -> Iterator[Segmenter]:
        """The model, loaded if it was not. Other borrowers of the same model wait.

        It is not unloaded meanwhile. Named masks are of two models, both of them borrowed. Raises
        what `load_segmenter` raises; the next borrower tries again.
        """
        parts = parts_of(resolved_model(name, self._settings.offered_models))
        if len(parts) == 1:
            with self._borrow_one(parts[0]) as segmenter:
                yield segmenter
            return
        # Whoever holds the first may wait for the second, and nobody for one before his own.
        with self._borrow_one(parts[0]) as masks, self._borrow_one(parts[1]) as labels:
            yield NamedMasks(masks, labels)

    @contextmanager
    def _borrow_one(self, name: str) -> Iterator[Segmenter]:
        with self._guard:
            slot = self._slots.setdefault(name, _Slot())
        with slot.lock:
            if slot.segmenter is None:
                self._make_room(name)
                with self._loading, metrics.MODEL_LOAD_SECONDS.labels(name).time():
                    slot.segmenter = self.with_more_memory(
                        name, partial(self._load, name, self._settings)
                    )
                logger.info("loaded %s on %s", name, slot.segmenter.device)
            try:
                yield slot.segmenter
            finally:
                slot.last_used = self._clock()

    def with_more_memory(self, name: str, work: Callable[[], T]) -> T:
        """What the work of a borrower of this model returns.

        If memory runs out, the other models are unloaded and the work is done once more. Raises
        what the work raises.
        """
        try:
            return work()
        except ModelOutOfMemory:
            unloaded = [other for other in self._by_last_use(name) if self._unload(other)]
            if not unloaded:
                raise
        logger.warning("unloaded %s, since %s had too little memory", ", ".join(unloaded), name)
        return work()

    def warm_up(self) -> None:
        """Loads WARM_MODELS. What cannot be loaded is logged. Raises DeviceBroken."""
        for name in listed(self._settings.warm_models):
            try:
                with self.borrow(name):
                    pass
            except DeviceBroken:
                raise
            except SegPipelineError as error:
                logger.warning("%s is not loaded ahead: %s", name, error)

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

        Idle means unused for `idle_unload_seconds`, not borrowed, and none of WARM_MODELS. `now` is
        on the clock given at construction, monotonic by default.
        """
        limit = self._settings.idle_unload_seconds
        if limit == 0:
            return []
        used_before = (self._clock() if now is None else now) - limit
        return [
            name
            for name, _ in self._loaded_slots()
            if name not in self._warm and self._unload(name, used_before)
        ]

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
        """Unloads the models unused for longest until there is room for this one."""
        for other in self._by_last_use(name):
            if self._has_room():
                return
            self._unload(other)

    def _has_room(self) -> bool:
        free = self._free_memory(self._settings.device)
        return len(self._loaded_slots()) < MAX_LOADED if free is None else free >= ROOM_BYTES

    def _by_last_use(self, name: str) -> list[str]:
        """The other loaded models, the one unused for longest first."""
        slots = self._loaded_slots()
        return [other for _, other in sorted((slot.last_used, each) for each, slot in slots)
                if other != name]  # fmt: skip

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
