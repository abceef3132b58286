"""Delivers answers that are sent before the request's body has arrived."""

from collections.abc import MutableMapping
from typing import Any

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.read_turns import ReadTurns

LINGER_SECONDS = 30.0
LINGER_SILENT_SECONDS = 2.0
"""The longest wait for the next bytes to drop, within the other limit for all of them."""

LINGER_BYTES = 64 * 2**20
"""The most bytes that are dropped of a body of unknown size. One of known size is dropped whole."""

DRAINS = 8
"""The most refused bodies that are read from the network at the same moment."""


class LingeringClose:
    """ASGI middleware: lets a client whose body is refused see the answer.

    Closing at once would reset a connection on which the client still sends, and many clients then
    report the reset instead of the answer (RFC 9112, section 9.6). So the whole answer is sent,
    further bytes are dropped for a bounded time, and then the connection is closed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._turns = ReadTurns(DRAINS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _announces_body(Headers(scope=scope)):
            await self.app(scope, receive, send)
        else:
            exchange = _Exchange(scope, receive, send, self._turns)
            await self.app(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request and its answer. It knows whether the body has arrived."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, turns: ReadTurns) -> None:
        self._scope, self._receive, self._send, self._turns = scope, receive, send, turns
        self._body_done = False
        self._lingers = False
        # A further `receive` would make the server send "100 Continue" after its answer.
        self._client_waits = Headers(scope=scope).get("expect", "").lower() == "100-continue"

    async def receive(self) -> Message:
        message = await self._receive()
        self._client_waits = False
        self._body_done = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not self._body_done:
            # A client that has stalled sends nothing that could be dropped.
            self._lingers = message["status"] != 408
            MutableHeaders(raw=message.setdefault("headers", []))["connection"] = "close"
        if self._lingers and _is_last(message):
            await self._send({**message, "more_body": True})
            await self._drain()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def _drain(self) -> None:
        connection = self._scope.get("state", {}).get("connection")
        if connection:
            connection.rest()
        came_at = anyio.current_time()
        ends_at, dropped = came_at + LINGER_SECONDS, 0
        limit_bytes = int(Headers(scope=self._scope).get("content-length", LINGER_BYTES))
        while not self._body_done and not self._client_waits and dropped < limit_bytes:
            async with self._turns.message(self._scope, self.receive) as message:
                now = anyio.current_time()
                came_at = now if message else came_at
                dropped += len(message.get("body", b"")) if message else 0
            if now - came_at > LINGER_SILENT_SECONDS or now > ends_at:
                return


def _announces_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _is_last(message: MutableMapping[str, Any]) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body", False)
