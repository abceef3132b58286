"""The replaced service's odd health check: when was somebody here last?"""

import threading
import time
from collections.abc import Callable


class Activity:
    """Healthy until the first request; then for as long as one is under way or the last was not
    long ago.

    The model used to be loaded by the first request, so a restart of an idle service gave its
    memory back; whoever built on that check still finds it. Safe in threads.
    """

    def __init__(self, idle_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._last: float | None = None
        self._under_way = 0

    def begin(self) -> None:
        """A request that counts has come."""
        with self._lock:
            self._under_way += 1
            self._last = self._clock()

    def end(self) -> None:
        """It has been answered, which counts as a sign of life too: it may have waited for
        minutes."""
        with self._lock:
            self._under_way -= 1
            self._last = self._clock()

    @property
    def is_idle(self) -> bool:
        """Whether `idle_seconds` have passed since the last request; never if they are 0."""
        with self._lock:
            if self._last is None or self._under_way or not self._idle_seconds:
                return False
            return self._clock() - self._last >= self._idle_seconds
