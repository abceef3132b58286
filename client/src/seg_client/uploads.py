"""The bytes of a request: at hand, or of a file that is read while it is sent."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio

from seg_client.errors import PictureUnreadable

PIECE_BYTES = 2**18


def size_of(path: Path) -> int:
    """A file's bytes. Raises PictureUnreadable if it is none that can be read."""
    try:
        with path.open("rb") as file:
            return file.seek(0, 2)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def pieces(content: bytes | Path | None) -> bytes | Iterator[bytes] | None:
    """What httpx takes; a file in pieces, anew for each attempt."""
    return _read(content) if isinstance(content, Path) else content


def pieces_later(content: bytes | Path | None) -> bytes | AsyncIterator[bytes] | None:
    """The same for who awaits: no read of the file holds up the others."""
    return _read_later(content) if isinstance(content, Path) else content


def _read(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece
    except OSError as error:
        raise _unreadable(path, error) from error


async def _read_later(path: Path) -> AsyncIterator[bytes]:
    try:
        async with await anyio.open_file(path, "rb") as file:
            while piece := await file.read(PIECE_BYTES):
                yield piece
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> PictureUnreadable:
    return PictureUnreadable(f"{str(path)[:200]!r} cannot be read: {error}.")
