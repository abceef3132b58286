"""Writes how far jobs have come, beside the work: while somebody listens, and never more often than
somebody could look."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from seg_pipeline.errors import StoreError
from seg_pipeline.jobs.progress import Listeners, Progress
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import write
from seg_pipeline.telemetry.activity import ACTIVITY

logger = logging.getLogger(__name__)

EVERY_SECONDS = 0.08
"""Of the notes on a job within this time, only the last is written."""

AGAIN_SECONDS = 1.0
"""How often to look for listeners while there are unwritten notes."""


class ProgressWriter:
    """Keeps the last note of each job, and writes it in a thread, which ends when it has nothing to
    do. Calls return at once.

    While nobody listens it is only kept. After `end` nothing of a job is written any more, and its
    note is removed.
    """

    def __init__(self, store: Store, listeners: Listeners | None = None) -> None:
        self._store = store
        self._listeners = listeners or Listeners(store)
        self._pending: dict[str, Progress | None] = {}
        self._kept: dict[str, Progress] = {}
        self._written: set[str] = set()
        self._changed = threading.Condition()
        self._is_busy = False
        self._thread: threading.Thread | None = None

    def note(
        self, uuid: str, stage: str, done: int | None = None, total: int | None = None
    ) -> None:
        """Notes where a job is now."""
        ACTIVITY.mark()
        self._put(uuid, Progress(str(stage), datetime.now(UTC), done, total))

    def end(self, uuid: str) -> None:
        """Forgets a job that this process no longer works on."""
        with self._changed:
            is_written = uuid in self._written
            self._written.discard(uuid)
            self._pending.pop(uuid, None)
            self._kept.pop(uuid, None)
        if is_written:
            self._put(uuid, None)

    def end_all(self) -> None:
        """Forgets all jobs."""
        with self._changed:
            uuids = {*self._written, *self._pending, *self._kept}
        for uuid in uuids:
            self.end(uuid)

    def flush(self) -> None:
        """Returns when everything noted so far is written, or kept since nobody listens."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending and not self._is_busy)

    def _put(self, uuid: str, progress: Progress | None) -> None:
        with self._changed:
            self._pending[uuid] = progress
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _run(self) -> None:
        while self._has_work():
            notes = self._taken(self._is_heard())
            try:
                self._store.at_once([self._call(*item) for item in notes.items()])
            except StoreError as error:
                logger.debug("progress is not written: %s", error)
            except Exception:  # else `flush` would wait for ever
                logger.exception("progress is not written")
            time.sleep(EVERY_SECONDS)

    def _has_work(self) -> bool:
        """Waits for a note. Returns False, and lets the thread end, once none is kept either."""
        with self._changed:
            self._is_busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._pending, AGAIN_SECONDS)
            self._is_busy = bool(self._pending or self._kept)
            if not self._is_busy:
                self._thread = None
            return self._is_busy

    def _is_heard(self) -> bool:
        try:
            return self._listeners.are_there()
        except StoreError:
            return False
        except Exception:
            logger.exception("whether somebody listens is not known")
            return False

    def _taken(self, is_heard: bool) -> dict[str, Progress | None]:
        """What is to be written now: without listeners, only that notes go."""
        with self._changed:
            pending, self._pending = self._pending, {}
            self._kept |= {uuid: progress for uuid, progress in pending.items() if progress}
            gone = {uuid: None for uuid, progress in pending.items() if progress is None}
            if not is_heard:
                return {**gone}
            notes, self._kept = self._kept, {}
            self._written.update(notes)
            return {**gone, **notes}

    def _call(self, uuid: str, progress: Progress | None) -> Callable[[], Any]:
        key = keys.progress(uuid)
        if progress is None:
            return partial(self._store.delete, key)
        return partial(self._store.put, key, write(progress))
