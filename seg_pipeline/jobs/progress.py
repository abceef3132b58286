"""How far a worker has come with a job: a note that is replaced, for those who listen.

It is there while a worker has the job and somebody listens to events. It goes with the job's end.
Nothing depends on it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from seg_pipeline.domain import Moment
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import OPTIONAL


@dataclass(frozen=True)
class Progress:
    """The stage that a job is in since `at`; of a SAM-2 the points done, and how many there are."""

    stage: str
    at: Moment
    done: Annotated[int | None, OPTIONAL] = None
    total: Annotated[int | None, OPTIONAL] = None


MARK_SECONDS = 5.0
"""How often a process that has listeners replaces the mark that says so."""

HOLDS_SECONDS = 15.0
"""How long the mark counts after its last change: its writer may have died."""

LOOK_SECONDS = 1.0
"""How often a worker looks for the mark while there is one."""


def mark_listeners(store: Store) -> None:
    """Says to all workers that somebody listens."""
    store.put(keys.LISTENERS_STATE, str(time.time_ns()).encode())


class Listeners:
    """Whether anybody listens, as a worker sees it: the mark changes now and then.

    Two clocks are never compared: the age of the mark counts from when this process saw it first.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._tag: object = None
        self._changed_at = self._looked_at = -HOLDS_SECONDS

    def are_there(self) -> bool:
        """Looks for the mark, not more often than it is worth. Raises StoreUnavailable."""
        now = self._clock()
        if not self._do_listen(now) or now - self._looked_at >= LOOK_SECONDS:
            self._look(now)
        return self._do_listen(now)

    def _look(self, now: float) -> None:
        info, self._looked_at = self._store.head(keys.LISTENERS_STATE), now
        tag = (info.etag, info.last_modified) if info else None
        if tag != self._tag:
            self._tag, self._changed_at = tag, now

    def _do_listen(self, now: float) -> bool:
        return self._tag is not None and now - self._changed_at < HOLDS_SECONDS
