"""Lets bodies take turns in being read, so that memory does not grow with their number."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from starlette.types import Message, Receive, Scope

TURN_SECONDS = 0.05
"""A body that brings nothing for so long passes the turn to the next one."""


class ReadTurns:
    """At most so many bodies are read from the network at once. Each holds half a megabyte."""

    def __init__(self, count: int) -> None:
        self._turns = asyncio.Semaphore(count)

    @asynccontextmanager
    async def message(self, scope: Scope, receive: Receive) -> AsyncIterator[Message | None]:
        """What the body brings within one turn, the length of the block; None if nothing."""
        async with self._turns:
            yield await _received(scope, receive)


async def _received(scope: Scope, receive: Receive) -> Message | None:
    with anyio.move_on_after(TURN_SECONDS):
        return await receive()
    connection = scope.get("state", {}).get("connection")
    if connection:  # behind our own server: nothing more is read until the next turn
        connection.pause_reading()
    return None
