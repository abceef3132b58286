"""Uvicorn's HTTP protocol with an end to its patience: it waits for a request's head for ever, and takes any size."""

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.http_parser import PlainParser

log = logging.getLogger(__name__)

HEAD_SECONDS = 20.0
"""From the connection, or the first byte of its next request, to the end of the head."""

HEAD_BYTES = 64 * 2**10


class GuardedProtocol(HttpToolsProtocol):
    """Hangs up on a client that does not get to the end of its request's head, which otherwise would hold one of the
    server's connections for nothing. The body has its own limits (`uploads`)."""

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = PlainParser(self)  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A head is due."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """No head will come any more."""
        self._got_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Hangs up if the head has passed its size before these bytes came."""
        if self._head_timer and self._head_bytes > HEAD_BYTES:
            self._hang_up()
            return
        self._head_bytes += len(data)
        super().data_received(data)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._got_head()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        self._got_head()
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._hang_up)

    def _got_head(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
        self._head_timer = None

    def _hang_up(self) -> None:
        log.info("hung up on %s: no whole request head within its time and size", self.client)
        self.transport.abort()
