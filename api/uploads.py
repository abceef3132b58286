"""Reads bodies as they arrive, in turns, and refuses large or slow ones at once."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import anyio
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Message

from api.admission import Slot
from api.error_responses import BodyTooLarge, BodyTooSlow
from api.forms import Form, FormReader
from api.read_turns import ReadTurns
from api.service import in_thread
from api.spool import Spool
from seg_pipeline.errors import ImageTooLarge

FORM_OVERHEAD_BYTES = 64 * 2**10
"""What a multipart form may carry beside its picture: fields, headers, boundaries."""


@dataclass(frozen=True)
class BodyReader:
    """Reads one request's body within limits."""

    request: Request
    max_image_bytes: int
    stall_seconds: float
    turns: ReadTurns
    slot: Slot

    async def image(self, spool: Spool) -> None:
        """Reads the body as the picture's bytes. Raises ImageTooLarge as soon as that is known."""
        await self._read(spool.write, self.max_image_bytes, self._image_too_large())

    async def whole(self, spool: Spool, limit_bytes: int, error: Exception) -> None:
        """Reads a body of any kind into the spool; raises `error` above the limit."""
        await self._read(spool.write, limit_bytes, error)

    async def json_bytes(self, limit_bytes: int) -> bytes:
        """The whole body; BodyTooLarge above the limit."""
        pieces: list[bytes] = []
        error = BodyTooLarge(
            f"a JSON body may have {limit_bytes} bytes; send a picture as multipart/form-data."
        )
        await self._read(pieces.append, limit_bytes, error)
        return b"".join(pieces)

    async def form(self, spool: Spool, known_fields: Collection[str]) -> Form:
        """Reads a multipart form with at most one picture, whose bytes go to the spool.

        The picture's field may have any name.
        """

        def write(data: bytes) -> None:
            if spool.size + len(data) > self.max_image_bytes:
                raise self._image_too_large()
            spool.write(data)

        reader = FormReader(self.request.headers["content-type"], known_fields, write)
        await self._read(
            reader.feed, self.max_image_bytes + FORM_OVERHEAD_BYTES, self._image_too_large()
        )
        return reader.finish()

    async def _read(
        self, take: Callable[[bytes], None], limit_bytes: int, error: Exception
    ) -> None:
        """Passes the body on in pieces, in a thread.

        Raises `error` above the limit, and BodyTooSlow if the body stalls or takes ten stalls in
        all.
        """
        self._check_announced(limit_bytes, error)
        clock, total, more = _Clock(self.stall_seconds, self.slot), 0, True
        while more:
            async with self.turns.message(self.request.scope, self.request.receive) as message:
                piece = _piece(message)
                total += len(piece)
                if total > limit_bytes:
                    raise error
                if piece:
                    await in_thread(take, piece)
            more = message is None or message.get("more_body", False)
            if more:
                clock.tick(len(piece))

    def _check_announced(self, limit_bytes: int, error: Exception) -> None:
        if announced_bytes(self.request) > limit_bytes:
            raise error

    def _image_too_large(self) -> ImageTooLarge:
        return ImageTooLarge(
            f"the picture has more than MAX_IMAGE_BYTES = {self.max_image_bytes} bytes."
        )


class _Clock:
    """Decides when a body is too slow."""

    def __init__(self, stall_seconds: float, slot: Slot) -> None:
        self._slot = slot
        self._stall_seconds = stall_seconds
        self._ends_at = anyio.current_time() + 10 * stall_seconds
        self._stalls_at = anyio.current_time() + stall_seconds

    def tick(self, received_bytes: int) -> None:
        """Counts a turn. Raises BodyTooSlow when the time is up, or when others need the slot."""
        self._slot.turn(received_bytes)
        if self._slot.was_taken:
            raise BodyTooSlow(
                "the body came very slowly while others waited for its place; send it again."
            )
        now = anyio.current_time()
        if received_bytes:
            self._stalls_at = now + self._stall_seconds
        if now >= min(self._stalls_at, self._ends_at):
            raise BodyTooSlow(
                f"the body stalled for {self._stall_seconds:g} s or took ten times that in all;"
                " send it again."
            )


def _piece(message: Message | None) -> bytes:
    if message and message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b"") if message else b""


def is_multipart(request: Request) -> bool:
    """Whether the body is a form with files.

    curl's `--data-binary` labels any bytes as a form without files.
    """
    return media_type(request) == "multipart/form-data"


def media_type(request: Request) -> str:
    """The content type without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def announced_bytes(request: Request) -> int:
    """The body's size as the client announced it; 0 if it did not."""
    announced = request.headers.get("content-length", "")
    return int(announced) if announced.isdecimal() else 0
