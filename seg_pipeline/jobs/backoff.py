"""How long to wait before another try: longer each time, and by chance."""

import random
from collections.abc import Callable

Jitter = Callable[[], float]
"""Gives random numbers from 0 to 1; tests pass their own."""


def doubling_pause(failures: int, first_seconds: float, longest_seconds: float) -> float:
    """Seconds after that many failures in a row: none after none, then twice as long each time."""
    if failures < 1:
        return 0.0
    return min(longest_seconds, first_seconds * 2.0 ** min(failures - 1, 64))


def growing_pause(failures: int, longest_seconds: float, jitter: Jitter = random.random) -> float:
    """Seconds after that many failures in a row: at least 1, at most a bound that doubles.

    All values in between are as likely ("full jitter"). So those that failed together do not come
    back together.
    """
    bound = doubling_pause(failures, 2, longest_seconds)
    return 1 + jitter() * max(0.0, bound - 1)


class Backoff:
    """Counts failures in a row and says when to try again.

    Times are seconds of the caller's clock.
    """

    def __init__(self, longest_seconds: float, jitter: Jitter = random.random) -> None:
        self._longest_seconds = longest_seconds
        self._jitter = jitter
        self.failures = 0
        self._ready_at = 0.0

    def failed(self, now: float, at_least_seconds: float = 0) -> None:
        """Notes a failure.

        The next try is due after a growing pause, or after `at_least_seconds` if that is longer.
        """
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
