"""Uvicorn's HTTP protocol with limits: by itself it waits for a head for ever, of any size."""

import asyncio
import logging
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.admission import client_key
from api.connections import Connections
from api.http_parser import PlainParser

log = logging.getLogger(__name__)

HEAD_BYTES = 64 * 2**10

WRITE_SECONDS = 60.0
"""A client that reads nothing of its answer for so long is disconnected."""

_BODY_HEADERS = (b"content-length", b"transfer-encoding")


class GuardedProtocol(HttpToolsProtocol):
    """Disconnects clients that hold a connection for nothing.

    These do not finish their request's head, or do not read their answer. The body has its own
    limits (`uploads`), and is left in the network until it is requested.
    """

    def __init__(self, *, connections: Connections, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self.parser = PlainParser(self)  # type: ignore[assignment]
        self._connections = connections
        self._timer: asyncio.TimerHandle | None = None
        self._in_head = False
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expects a head."""
        super().connection_made(transport)
        self._connections.opened(self, self._client_key)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._connections.closed(self)
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Disconnects if the head had exceeded its size before these bytes came."""
        if self._in_head and self._head_bytes > HEAD_BYTES:
            self.hang_up("its request's head has no end")
            return
        self._head_bytes += len(data)
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Expects a head from the first byte of a request on."""
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        """Stops reading after the head: the body is read when it is requested."""
        self._in_head = False
        self._stop_timer()
        self._connections.served(self)
        super().on_headers_complete()
        self.scope["state"]["connection"] = self
        if any(name in _BODY_HEADERS for name, _ in self.headers):
            self.flow.pause_reading()

    def on_response_complete(self) -> None:
        """Waits for the client's next request."""
        super().on_response_complete()
        if self.cycle.response_complete:  # else the client has asked already
            self.rest()

    def pause_writing(self) -> None:
        """Limits the time in which the client does not read its answer."""
        super().pause_writing()
        self.rest()
        self._start_timer(WRITE_SECONDS, "it does not read its answer")

    def resume_writing(self) -> None:
        """Ends that limit."""
        super().resume_writing()
        self._stop_timer()
        self._connections.served(self)

    def pause_reading(self) -> None:
        """Reads nothing from the network until the request's next `receive`."""
        self.flow.pause_reading()

    def rest(self) -> None:
        """Marks the connection as silent, so that it may be closed for another."""
        self._connections.silent(self, self._client_key)

    def limit_buffers(self, size: int) -> None:
        """Keeps little of an answer that is not read, here and in the system."""
        self.transport.set_write_buffer_limits(high=size)
        connection = self.transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    def hang_up(self, reason: str) -> None:
        """Closes the connection at once."""
        log.info("hung up on %s: %s", self.client, reason)
        self.transport.abort()

    @property
    def _client_key(self) -> str:
        return client_key(self.client[0] if self.client else "")

    def _expect_head(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        self._start_timer(self._connections.head_seconds, "no whole request head came in time")

    def _start_timer(self, seconds: float, reason: str) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self.hang_up, reason)

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = None
