"""Limits how many exports are made at once, since each holds a mask and a thread."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from api.error_responses import Busy

WAIT_SECONDS = 10.0
WAITING_FOR_EACH = 16


class ExportTurns:
    """So many exports at once; some more wait for a turn, and all others are refused."""

    def __init__(self, count: int, wait_seconds: float = WAIT_SECONDS) -> None:
        self._count, self._wait_seconds = count, wait_seconds
        self._turns = asyncio.Semaphore(count)
        self._present = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A turn, the length of the block. Raises Busy if there is none in time."""
        if self._present >= self._count * (1 + WAITING_FOR_EACH):
            raise self._busy()
        self._present += 1
        try:
            await self._acquire()
            try:
                yield
            finally:
                self._turns.release()
        finally:
            self._present -= 1

    async def _acquire(self) -> None:
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._turns.acquire()
        except TimeoutError as error:
            raise self._busy() from error

    def _busy(self) -> Busy:
        return Busy(
            f"the service makes MAX_EXPORTS = {self._count} exports already; try again in a moment."
        )
