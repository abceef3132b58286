"""How long to wait before something that failed is tried again: longer each time, and never all at
once."""

import random
from collections.abc import Callable

Jitter = Callable[[], float]
"""A number from 0 to 1, each time another; tests pass their own."""


def doubling_pause(failures: int, first_seconds: float, longest_seconds: float) -> float:
    """Seconds after a number of failures in a row: none after none, then twice as long each
    time."""
    if failures < 1:
        return 0.0
    return min(longest_seconds, first_seconds * 2.0 ** min(failures - 1, 64))


def growing_pause(failures: int, longest_seconds: float, jitter: Jitter = random.random) -> float:
    """Seconds after the so-manieth failure in a row (from 1): at least one, at most a bound that
    doubles each time.

    Anything in between is as likely ("full jitter"), so that what failed together does not come
    back together.
    """
    bound = doubling_pause(failures, 2, longest_seconds)
    return 1 + jitter() * max(0.0, bound - 1)


class Backoff:
    """Counts failures in a row and says when to try again. Times are seconds of any clock, the
    caller's."""

    def __init__(self, longest_seconds: float, jitter: Jitter = random.random) -> None:
        self._longest_seconds = longest_seconds
        self._jitter = jitter
        self.failures = 0
        self._ready_at = 0.0

    def failed(self, now: float, at_least_seconds: float = 0) -> None:
        """Notes a failure; the next try is due after a growing pause, or the one asked for if that
        is longer."""
        self.failures += 1
        pause = growing_pause(self.failures, self._longest_seconds, self._jitter)
        self._ready_at = now + max(pause, at_least_seconds)

    def worked(self) -> None:
        """Forgets the failures."""
        self.failures = 0
        self._ready_at = 0.0

    def wait_seconds(self, now: float) -> float:
        """How long until the next try; 0 if it is due."""
        return max(0.0, self._ready_at - now)
