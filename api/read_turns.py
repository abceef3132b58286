"""Bodies take turns in being read, so that what the process holds of them does not grow with their
number."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from starlette.types import Message, Receive, Scope

TURN_SECONDS = 0.05
"""A body that brings nothing for so long lets the next one have its turn."""


class ReadTurns:
    """At most so many bodies are taken from the network at the same moment; each holds half a
    megabyte meanwhile."""

    def __init__(self, count: int) -> None:
        self._turns = asyncio.Semaphore(count)

    @asynccontextmanager
    async def message(self, scope: Scope, receive: Receive) -> AsyncIterator[Message | None]:
        """What the body brings within one turn, which lasts as long as the block; None if that is
        nothing."""
        async with self._turns:
            yield await _received(scope, receive)


async def _received(scope: Scope, receive: Receive) -> Message | None:
    with anyio.move_on_after(TURN_SECONDS):
        return await receive()
    connection = scope.get("state", {}).get("connection")
    if connection:  # behind our own server: nothing more is read until the next turn
        connection.pause_reading()
    return None
