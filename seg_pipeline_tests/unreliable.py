"""A store that dies, for tests of what a crash leaves behind."""

from collections import Counter
from collections.abc import Callable
from threading import Lock
from typing import Any

from seg_pipeline.store import Store

WRITES = ("put", "create", "delete", "delete_folder")


class Killed(BaseException):
    """What a killed process does: nothing more. No `except Exception` catches it."""


class UnreliableStore:
    """Another store, whose calls are counted and which dies before its write number `lives` (from 0).

    A `delete_folder` counts as two writes: it may die when it has removed the first object alone.
    """

    def __init__(self, store: Store, lives: int | None = None) -> None:
        self._store = store
        self.lives = lives
        self.calls: Counter[str] = Counter()
        self._lock = Lock()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            if name in WRITES:
                self._live_or_die()
            if name == "delete_folder":
                for info in self._store.list(args[0], limit=1):
                    self._store.delete(info.key)
                self._live_or_die()
            return method(*args, **kwargs)

        return call

    def _live_or_die(self) -> None:
        with self._lock:
            if self.lives == 0:
                raise Killed
            if self.lives is not None:
                self.lives -= 1


class Meanwhile(UnreliableStore):
    """Another store, in which something else happens once, just before its call number `moment` (from 0)."""

    def __init__(self, store: Store, moment: int, event: Callable[[], object], lives: int | None = None) -> None:
        super().__init__(store, lives)
        self._moment, self._event = moment, event

    def __getattr__(self, name: str) -> Any:
        method = super().__getattr__(name)
        if name == "at_once":  # what it calls is counted one by one
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            self._moment -= 1
            if self._moment == -1:
                self._event()
            return method(*args, **kwargs)

        return call

    @property
    def happened(self) -> bool:
        """Whether there was such a call."""
        return self._moment < 0
