"""Uvicorn's HTTP protocol with an end to its patience: it waits for a request's head for ever, and
takes any size."""

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.admission import client_key
from api.connections import Connections
from api.http_parser import PlainParser

log = logging.getLogger(__name__)

HEAD_BYTES = 64 * 2**10

WRITE_SECONDS = 60.0
"""A client that takes nothing of its answer for so long is given up."""

_BODY_HEADERS = (b"content-length", b"transfer-encoding")


class GuardedProtocol(HttpToolsProtocol):
    """Hangs up on a client that does not get to the end of its request's head or does not read its
    answer, which otherwise would hold a connection for nothing. The body has its own limits
    (`uploads`), and is left in the network until somebody asks for it."""

    def __init__(self, *, connections: Connections, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self.parser = PlainParser(self)  # type: ignore[assignment]
        self._connections = connections
        self._timer: asyncio.TimerHandle | None = None
        self._in_head = False
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A head is due."""
        super().connection_made(transport)
        self._connections.opened(self, self._client_key)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing will come any more."""
        self._connections.closed(self)
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Hangs up if the head has passed its size before these bytes came."""
        if self._in_head and self._head_bytes > HEAD_BYTES:
            self.hang_up("its request's head has no end")
            return
        self._head_bytes += len(data)
        super().data_received(data)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        """The head is whole; of the body, what has come with it is all until somebody asks for
        more."""
        self._in_head = False
        self._stop_timer()
        self._connections.served(self)
        super().on_headers_complete()
        self.scope["state"]["connection"] = self
        if any(name in _BODY_HEADERS for name, _ in self.headers):
            self.flow.pause_reading()

    def on_response_complete(self) -> None:
        """The client may ask again."""
        super().on_response_complete()
        if self.cycle.response_complete:  # else the client has asked already
            self.rest()

    def pause_writing(self) -> None:
        """The client does not read its answer."""
        super().pause_writing()
        self.rest()
        self._start_timer(WRITE_SECONDS, "it does not read its answer")

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        self._stop_timer()
        self._connections.served(self)

    def pause_reading(self) -> None:
        """Takes nothing from the network until the request's next `receive`."""
        self.flow.pause_reading()

    def rest(self) -> None:
        """Nobody is served here any more, or again: the connection may be closed for another."""
        self._connections.silent(self, self._client_key)

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
