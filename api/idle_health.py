"""The replaced service's health check, which reports how recently it was used."""

import threading
import time
from collections.abc import Callable


class Activity:
    """Healthy until the first request, and then while the last one is under way or recent.

    The replaced service loaded its model with the first request, so restarting an idle service
    freed its memory. Operators who rely on that check still find it. Thread-safe.
    """

    def __init__(self, idle_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._last: float | None = None
        self._under_way = 0

    def begin(self) -> None:
        """Counts the begin of a request."""
        with self._lock:
            self._under_way += 1
            self._last = self._clock()

    def end(self) -> None:
        """Counts the end of a request as activity too: it may have waited for minutes."""
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
