"""TCP relays that can be made to fail: what stands between the service and the outside in a
trial."""

import asyncio
import contextlib
import threading
from enum import StrEnum
from typing import Self

PIECE_BYTES = 65_536
SLOW_SECONDS = 0.3
"""What a slow relay adds to each piece, in both directions."""


class Mode(StrEnum):
    """How a gate treats connections."""

    OPEN = "open"
    REFUSING = "refusing"
    HANGING = "hanging"
    SLOW = "slow"


class Gate:
    """Relays connections on a free port of the loopback to `target_port`, as its `mode` says. A
    context."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self._mode = Mode.OPEN
        self._writers: set[asyncio.StreamWriter] = set()
        self._started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve()), name=f"gate to {target_port}", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    @property
    def url(self) -> str:
        """Where the service reaches what is behind."""
        return f"http://127.0.0.1:{self.port}"

    def set(self, mode: Mode) -> None:
        """From now on; a gate that refuses also cuts what is connected."""
        self._mode = mode
        if mode is Mode.REFUSING:
            self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stopped.wait()
        server.close()
        self._cut()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode is Mode.REFUSING:
            writer.transport.abort()
            return
        try:
            there, onward = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, onward}
        try:
            await asyncio.gather(self._pump(reader, onward), self._pump(there, writer))
        finally:
            self._writers -= {writer, onward}
            writer.transport.abort()
            onward.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await source.read(PIECE_BYTES):
                await self._hold_up()
                sink.write(piece)
                await sink.drain()
        sink.close()

    async def _hold_up(self) -> None:
        if self._mode is Mode.SLOW:
            await asyncio.sleep(SLOW_SECONDS)
        while self._mode is Mode.HANGING:
            await asyncio.sleep(0.1)
