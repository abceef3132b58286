"""Bodies, read as they arrive and refused the moment they are too large or too slow."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from fastapi import Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from api.error_responses import BodyTooLarge, BodyTooSlow, Busy
from seg_pipeline.errors import ImageTooLarge, InvalidRequest

FORM_OVERHEAD_BYTES = 64 * 2**10
"""What a multipart form may carry beside its picture: fields, headers, boundaries."""

MAX_FIELDS = 16
MAX_FIELD_BYTES = 8 * 2**10
UPLOADS_HELD = 8


@dataclass(frozen=True)
class Form:
    """A multipart form: its text fields, and its one file's bytes if it has a file."""

    fields: dict[str, str]
    data: bytes | None


class UploadMemory:
    """The bytes of all uploads being read now; more than fit are refused (Busy) rather than swapped."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0

    @contextmanager
    def hold(self) -> Iterator["Hold"]:
        """Counts what is added inside the block, and forgets it at the end."""
        hold = Hold(self)
        try:
            yield hold
        finally:
            self.held_bytes -= hold.held_bytes


class Hold:
    """One upload's share of the memory."""

    def __init__(self, memory: UploadMemory) -> None:
        self._memory = memory
        self.held_bytes = 0

    def add(self, size: int) -> None:
        """Takes so many bytes more, or raises Busy."""
        if self._memory.held_bytes + size > self._memory.limit_bytes:
            raise Busy("too many uploads are being read at once; try again in a moment.")
        self.held_bytes += size
        self._memory.held_bytes += size


@dataclass(frozen=True)
class BodyReader:
    """Reads one request's body within limits."""

    request: Request
    max_image_bytes: int
    stall_seconds: float
    hold: Hold

    async def image(self) -> bytes:
        """The whole body as the picture's bytes; ImageTooLarge as soon as it is known to be."""
        self._check_announced(self.max_image_bytes, self._image_too_large())
        return await self._bytes(self.max_image_bytes, self._image_too_large())

    async def json_bytes(self, limit_bytes: int) -> bytes:
        """The whole body, small; BodyTooLarge beyond the limit."""
        error = BodyTooLarge(f"a JSON body may have {limit_bytes} bytes; send a picture as multipart/form-data.")
        self._check_announced(limit_bytes, error)
        return await self._bytes(limit_bytes, error)

    async def form(self) -> Form:
        """A multipart form with at most one file (whatever its field is called), which is the picture."""
        limit = self.max_image_bytes + FORM_OVERHEAD_BYTES
        self._check_announced(limit, self._image_too_large())
        async with aclosing(self._chunks(limit, self._image_too_large())) as chunks:
            parser = _ImageFormParser(self.request, chunks, self.max_image_bytes, self._image_too_large())
            try:
                form = await parser.parse()
            except (MultiPartException, FormParserError, UnicodeError) as error:
                raise InvalidRequest(f"the multipart form cannot be read: {_reason(error)}.") from error
        return _to_form(form.multi_items())

    async def _bytes(self, limit_bytes: int, error: Exception) -> bytes:
        async with aclosing(self._chunks(limit_bytes, error)) as chunks:
            return b"".join([chunk async for chunk in chunks])

    async def _chunks(self, limit_bytes: int, error: Exception) -> AsyncGenerator[bytes, None]:
        """The body in pieces. Raises the error past the limit, BodyTooSlow if it stalls or takes ten stalls in all."""
        total, ends_at = 0, anyio.current_time() + 10 * self.stall_seconds
        async with aclosing(self.request.stream()) as stream:
            while True:
                chunk = await self._next(stream, ends_at)
                if chunk is None:
                    return
                total += len(chunk)
                if total > limit_bytes:
                    raise error
                self.hold.add(len(chunk))
                yield chunk

    async def _next(self, stream: AsyncIterator[bytes], ends_at: float) -> bytes | None:
        deadline = min(anyio.current_time() + self.stall_seconds, ends_at)
        with anyio.move_on_at(deadline):
            return await anext(stream, None)
        raise BodyTooSlow(
            f"the body stalled for {self.stall_seconds:g} s or took ten times that in all; send it again."
        )

    def _check_announced(self, limit_bytes: int, error: Exception) -> None:
        announced = self.request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > limit_bytes:
            raise error

    def _image_too_large(self) -> ImageTooLarge:
        return ImageTooLarge(f"the picture has more than MAX_IMAGE_BYTES = {self.max_image_bytes} bytes.")


class _ImageFormParser(MultiPartParser):
    """Starlette's parser, holding one file in memory and refusing it at its limit, not after."""

    spool_max_size = 0  # never to disk: the whole upload is bounded by UploadMemory

    def __init__(
        self, request: Request, chunks: AsyncGenerator[bytes, None], max_image_bytes: int, error: Exception
    ) -> None:
        super().__init__(request.headers, chunks, max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
        self._left = max_image_bytes
        self._error = error

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_part.file is not None:
            self._left -= end - start
            if self._left < 0:
                raise self._error
        super().on_part_data(data, start, end)


def is_multipart(request: Request) -> bool:
    """Whether the body is a form with files; curl's `--data-binary` calls any bytes a form without."""
    return media_type(request) == "multipart/form-data"


def media_type(request: Request) -> str:
    """The content type without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _to_form(items: list[tuple[str, Any]]) -> Form:
    fields = {name: value for name, value in items if isinstance(value, str)}
    files = [value for _, value in items if isinstance(value, UploadFile)]
    if not files:
        return Form(fields, None)
    try:
        return Form(fields, files[0].file.read())
    finally:
        files[0].file.close()


def _reason(error: Exception) -> str:
    return str(getattr(error, "message", error)).rstrip(".")[:200]
