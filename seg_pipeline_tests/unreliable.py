"""A store that dies, for tests of what a crash leaves behind."""

from collections import Counter
from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import Any

from seg_pipeline.store import Store
from seg_pipeline.store.objects import keep_none

WRITES = ("put", "put_file", "copy", "create", "delete", "delete_folder")


class Killed(BaseException):
    """What a killed process does: nothing more. No `except Exception` catches it."""


class UnreliableStore:
    """Another store, whose calls are counted and which dies before its write number `lives` (from
    0).

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
                keep = kwargs.get("keep", keep_none)
                for key in [info.key for info in self._store.list(args[0]) if not keep(info.key)][
                    :1
                ]:
                    self._store.delete(key)
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
    """Another store, in which something else happens once, just before its call number `moment`
    (from 0)."""

    def __init__(
        self, store: Store, moment: int, event: Callable[[], object], lives: int | None = None
    ) -> None:
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


class Turns:
    """Somebody else's work in a thread, which stops after so many calls of its store until it is
    told to go on."""

    def __init__(self, work: Callable[[Any], object], store: Store, calls: int) -> None:
        self._stopped, self._go_on = Event(), Event()
        gate = Meanwhile(store, calls, self._stop)
        self._thread = Thread(target=self._run, args=(work, gate), daemon=True)

    def begin(self) -> None:
        """Does the first part of it, all of it if there is not more."""
        self._thread.start()
        assert self._stopped.wait(60)

    def end(self) -> None:
        """Does the rest, if it was begun."""
        self._go_on.set()
        if self._thread.ident is not None:
            self._thread.join(60)
            assert not self._thread.is_alive()

    def _run(self, work: Callable[[Any], object], gate: Any) -> None:
        try:
            work(gate)
        finally:
            self._stopped.set()

    def _stop(self) -> None:
        self._stopped.set()
        assert self._go_on.wait(60)
