"""All connections of the server. When there are too many, silent ones are closed."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Protocol

HEAD_SECONDS = 20.0
"""From the connection, or the first byte of its next request, to the end of the head.

It is less when many connections are silent.
"""

LEAST_SHARE = 0.1
"""The share of that time when the most connections are silent."""


GRACE_SECONDS = 1.0
"""A new connection is not silent yet: a thousand clients at once connect first and then ask."""


class Connection(Protocol):
    """What is used here of a connection."""

    def hang_up(self, reason: str) -> None:
        """Closes it at once."""
        ...


class Connections:
    """Counts connections, and closes silent ones beyond the limits.

    A connection is silent while no request and no answer is in progress on it. Its head has not
    come, the client keeps it for later, or does not read its answer. The one closed is the longest
    silent one of the client with most of them. So a client that opens many loses its own first, and
    a probe always gets in. Those that have just become silent stay, up to twice the limits.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._clock = limit, clock
        self._open: set[Connection] = set()
        # By client and connection: since when it is silent.
        self._silent: defaultdict[str, dict[Connection, float]] = defaultdict(dict)
        self._clients: dict[Connection, str] = {}

    @property
    def count(self) -> int:
        """The number of open connections."""
        return len(self._open)

    @property
    def silent_count(self) -> int:
        """The number of silent connections."""
        return len(self._clients)

    @property
    def head_seconds(self) -> float:
        """How long a request's head may take now."""
        used = min(1.0, self.silent_count / (self._limit / 2))
        return HEAD_SECONDS * max(LEAST_SHARE, 1 - used)

    def opened(self, connection: Connection, client: str) -> None:
        """Adds a new connection, which is silent at first."""
        self._open.add(connection)
        self.silent(connection, client)

    def closed(self, connection: Connection) -> None:
        """Removes a connection."""
        self._open.discard(connection)
        self.served(connection)

    def silent(self, connection: Connection, client: str) -> None:
        """Marks the connection as silent."""
        if connection in self._open and connection not in self._clients:
            self._clients[connection] = client
            self._silent[client][connection] = self._clock()
            self._close_some(sparing=connection)

    def served(self, connection: Connection) -> None:
        """Marks the connection as in use: a request has come, or its answer goes on."""
        client = self._clients.pop(connection, None)
        if client is not None:
            del self._silent[client][connection]
            if not self._silent[client]:
                del self._silent[client]

    def _close_some(self, sparing: Connection) -> None:
        while self._is_over(self._limit):
            most = max(self._silent.values(), key=len)
            longest, since = next(iter(most.items()))
            has_just_come = self._clock() - since < GRACE_SECONDS and not self._is_over(
                2 * self._limit
            )
            if longest is sparing or has_just_come:
                return
            self.closed(longest)
            longest.hang_up("too many connections are open on which nothing is asked")

    def _is_over(self, limit: int) -> bool:
        return self.count > limit or self.silent_count > limit // 2
