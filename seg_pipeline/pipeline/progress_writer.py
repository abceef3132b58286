"""Writes how far jobs have come, beside the work: never more often than somebody could look."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from seg_pipeline.errors import StoreError
from seg_pipeline.jobs.progress import Progress
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import write

logger = logging.getLogger(__name__)

EVERY_SECONDS = 0.08
"""Notes that come within this time of one another are one write for each job: the last."""


class ProgressWriter:
    """Keeps the last note of each job, and writes it in a thread. Calls return at once.

    After `end` nothing of a job is written any more, and its note is removed.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pending: dict[str, Progress | None] = {}
        self._written: set[str] = set()
        self._changed = threading.Condition()
        self._is_busy = False
        self._thread: threading.Thread | None = None

    def note(
        self, uuid: str, stage: str, done: int | None = None, total: int | None = None
    ) -> None:
        """Notes where a job is now."""
        self._put(uuid, Progress(str(stage), datetime.now(UTC), done, total))

    def end(self, uuid: str) -> None:
        """Forgets a job that this process no longer works on."""
        with self._changed:
            is_written = uuid in self._written
            self._written.discard(uuid)
            self._pending.pop(uuid, None)
        if is_written:
            self._put(uuid, None)

    def end_all(self) -> None:
        """Forgets all jobs."""
        with self._changed:
            uuids = {*self._written, *self._pending}
        for uuid in uuids:
            self.end(uuid)

    def flush(self) -> None:
        """Returns when everything noted so far is written."""
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
        while True:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._pending)
                pending, self._pending = self._pending, {}
                self._written.update(uuid for uuid, progress in pending.items() if progress)
                self._is_busy = True
            try:
                self._store.at_once([self._call(*item) for item in pending.items()])
            except StoreError as error:
                logger.debug("progress is not written: %s", error)
            time.sleep(EVERY_SECONDS)

    def _call(self, uuid: str, progress: Progress | None) -> Callable[[], Any]:
        key = keys.progress(uuid)
        if progress is None:
            return partial(self._store.delete, key)
        return partial(self._store.put, key, write(progress))
