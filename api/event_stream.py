"""Server-sent events as an answer: heartbeats, a limit to those who do not read, and an end."""

import logging
from contextlib import AsyncExitStack
from typing import Any

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.events import JobState, Listener

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15.0
"""So long nothing is sent: then a comment is, so that proxies keep the connection."""

SEND_SECONDS = 20.0
"""A listener that takes nothing for so long is cut off."""

RECONNECT_MILLISECONDS = 1000
BUFFER_BYTES = 16 * 2**10
"""What is kept for a listener that does not read."""


class EventStream(Response):
    """The events of a listener until the job's end. `turn` ends with it, however it ends."""

    media_type = "text/event-stream"

    def __init__(self, listener: Listener, turn: AsyncExitStack, last_id: str) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._listener, self._turn, self._last_id = listener, turn, last_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends them until the job's end, or until the client has gone."""
        connection = scope.get("state", {}).get("connection")
        async with self._turn:
            if connection:  # behind our own server
                connection.limit_buffers(BUFFER_BYTES)
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(_until_gone, receive, group.cancel_scope)
                    await self._send_all(send)
                    group.cancel_scope.cancel()
            except* TimeoutError:
                log.info("a listener does not read its events")
                if connection:
                    connection.hang_up("it does not read its events")

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await _send_piece(send, f"retry: {RECONNECT_MILLISECONDS}\n\n".encode())
        while not self._listener.is_closed:
            state = await self._listener.next(HEARTBEAT_SECONDS)
            await _send_piece(send, self._piece(state))
            if state and state.is_last:
                break
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _piece(self, state: JobState | None) -> bytes:
        """What to send: a state that the client has already is a heartbeat."""
        if state is None or state.id == self._last_id:
            return b": still here\n\n"
        self._last_id = state.id
        return state.encoded()


async def _send_piece(send: Send, piece: bytes) -> None:
    with anyio.fail_after(SEND_SECONDS):
        await send({"type": "http.response.body", "body": piece, "more_body": True})


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    message: Any = None
    while message is None or message["type"] != "http.disconnect":
        message = await receive()
    scope.cancel()
