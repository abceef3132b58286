"""Reads a picture's header in a bounded number of steps, without any decoder.

Pillow's plugins read a header to its end, whatever its size: 32 MB of empty JPEG segments take them
15 s and 1 GB. Here the work is bounded, and no bytes are kept. What a scan cannot tell is left to
the decoder.
"""

import mmap
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, cast

from seg_pipeline.errors import EmptyImage, ImageError, TruncatedImage
from seg_pipeline.imaging.formats import jpeg, jxl, png, tiff
from seg_pipeline.imaging.images import FORMATS, check_frames, check_pixels, format_of

SIGNATURE_BYTES = 16
MAX_STEPS = 20_000
"""Chunks that are searched for a second frame; ten times as many of a GIF's small blocks."""

_WINDOW_BYTES = 64 * 2**10

_JPEG_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_JPEG_SCAN = 0xDA


@dataclass(frozen=True)
class ScannedHeader:
    """The format, its file extension and the stored size; None where the scan cannot tell."""

    format: str
    extension: str
    size_wh: tuple[int, int] | None


def scan_header(file: BinaryIO, max_pixels: int) -> ScannedHeader:
    """Reads the header; the file's position moves.

    Raises EmptyImage, NotAnImage, UnsupportedImage, TruncatedImage (the header breaks off),
    AnimatedImage, TooManyPixels or ImageTooCostly.
    """
    if not file.seek(0, 2):
        raise EmptyImage("The picture is empty: no bytes arrived.")
    with _Mapped(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        data = cast(bytes, mapped)  # as far as it is used
        format_ = format_of(data)
        size_wh = (
            _MAPPED_SIZES[format_](data)
            if format_ in _MAPPED_SIZES
            else _scanned_size(format_, _Bytes(file))
        )
    if size_wh:
        check_pixels(size_wh, max_pixels)
    return ScannedHeader(format_, FORMATS[format_], size_wh)


def has_known_signature(beginning: bytes | bytearray) -> bool:
    """Whether a known format begins with these bytes; `SIGNATURE_BYTES` of them are enough."""
    if beginning[4:8] == b"ftyp":
        return True
    try:
        return bool(format_of(bytes(beginning)))
    except ImageError:
        return False


class _Mapped(mmap.mmap):
    """A file's bytes, read only where they are accessed."""

    def startswith(self, prefix: bytes | tuple[bytes, ...]) -> bool:
        """As `bytes.startswith`."""
        return self[:SIGNATURE_BYTES].startswith(prefix)


class _Ended(Exception):
    """The file ends before the requested bytes."""


class _Bytes:
    """Random access to a file's bytes through one window of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        self._start, self._window = 0, b""

    def __len__(self) -> int:
        return self._size

    def read(self, start: int, count: int) -> bytes:
        """So many bytes from `start`; _Ended if there are fewer."""
        if start + count > self._size:
            raise _Ended
        begin = start - self._start
        if begin < 0 or begin + count > len(self._window):
            self._file.seek(start)
            self._start, self._window, begin = start, self._file.read(max(_WINDOW_BYTES, count)), 0
        return self._window[begin : begin + count]

    def unpack(self, layout: str, start: int) -> tuple[int, ...]:
        """Integers from `start`."""
        return struct.unpack(layout, self.read(start, struct.calcsize(layout)))


def _scanned_size(format_: str, bytes_: _Bytes) -> tuple[int, int] | None:
    try:
        return _SCANS[format_](bytes_) if format_ in _SCANS else None
    except _Ended as error:
        raise TruncatedImage(
            f"The {format_} picture's header is truncated: it ends after {len(bytes_)} bytes."
        ) from error


def _jpeg(bytes_: _Bytes) -> tuple[int, int] | None:
    position = 2
    for _ in range(jpeg.MAX_SEGMENTS + jpeg.MAX_FILL_BYTES):
        prefix, marker = bytes_.read(position, 2)
        if prefix != 0xFF or marker in (0x00, 0xFF):  # fill, or what is no marker at all
            position += 1
        elif marker in _JPEG_WITHOUT_LENGTH:
            position += 2
        elif marker in _JPEG_SIZES:
            height, width = bytes_.unpack(">HH", position + 5)
            return width, height
        elif marker == _JPEG_SCAN:
            return None
        else:
            position += 2 + bytes_.unpack(">H", position + 2)[0]
    raise jpeg.too_many_segments()


def _png(bytes_: _Bytes) -> tuple[int, int] | None:
    width, height = bytes_.unpack(">II", 16)
    check_frames(
        "PNG",
        any(bytes_.unpack(">I", at)[0] > 1 for name, at in _png_chunks(bytes_) if name == b"acTL"),
    )
    return width, height


def _png_chunks(bytes_: _Bytes) -> Iterator[tuple[bytes, int]]:
    """The chunks' names and where their data begins, up to the picture's pixels.

    Raises TruncatedImage if there are no pixels.
    """
    position = 8
    for _ in range(MAX_STEPS):
        if position + 12 > len(bytes_):
            raise png.without_pixels()
        length, name = struct.unpack(">I4s", bytes_.read(position, 8))
        if name == b"IDAT":
            return
        yield name, position + 8
        position += 12 + length


def _gif(bytes_: _Bytes) -> tuple[int, int] | None:
    width, height, flags = bytes_.unpack("<HHB", 6)
    position = 13 + _gif_colours(flags)
    with suppress(_Ended):  # the header is whole: what is missing is pixels
        check_frames("GIF", _gif_frames(bytes_, position) > 1)
    return width, height


def _gif_frames(bytes_: _Bytes, position: int) -> int:
    """The number of frames, counted up to 2 and as far as the steps reach."""
    frames, is_data = 0, False
    for _ in range(MAX_STEPS * 10):
        (kind,) = bytes_.read(position, 1)
        if is_data:
            position, is_data = position + 1 + kind, kind != 0
        elif kind == 0x21:  # an extension: its label, then data
            position, is_data = position + 2, True
        elif kind == 0x2C and frames == 0:
            position, is_data, frames = (
                position + 11 + _gif_colours(bytes_.read(position + 9, 1)[0]),
                True,
                1,
            )
        else:
            return 2 if kind == 0x2C else frames
    return frames


def _gif_colours(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _bmp(bytes_: _Bytes) -> tuple[int, int] | None:
    (header_bytes,) = bytes_.unpack("<I", 14)
    width, height = bytes_.unpack("<HH" if header_bytes == 12 else "<ii", 18)
    return width, abs(height)


def _webp(bytes_: _Bytes) -> tuple[int, int] | None:
    kind = bytes_.read(12, 4)
    if kind == b"VP8X":
        flags, width_1, height_1 = (
            int.from_bytes(bytes_.read(start, count), "little") for start, count in _VP8X
        )
        check_frames("WEBP", bool(flags & 2) and _webp_frames(bytes_) > 1)
        return width_1 + 1, height_1 + 1
    if kind == b"VP8L":
        (packed,) = bytes_.unpack("<I", 21)
        return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    width, height = bytes_.unpack("<HH", 26)
    return width & 0x3FFF, height & 0x3FFF


_VP8X = ((20, 1), (24, 3), (27, 3))


def _webp_frames(bytes_: _Bytes) -> int:
    frames, position = 0, 12
    for _ in range(MAX_STEPS):
        if position + 8 > len(bytes_) or frames > 1:
            break
        name, length = struct.unpack("<4sI", bytes_.read(position, 8))
        frames += name == b"ANMF"
        position += 8 + length + length % 2
    return frames


def _jxl(data: bytes) -> tuple[int, int]:
    size_wh, is_animated = jxl.header_of(data)
    check_frames("JXL", is_animated)
    return size_wh


_SCANS: dict[str, Callable[[_Bytes], tuple[int, int] | None]] = {
    "BMP": _bmp,
    "GIF": _gif,
    "JPEG": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
}

_MAPPED_SIZES: dict[str, Callable[[bytes], tuple[int, int]]] = {
    "JXL": _jxl,
    "TIFF": lambda data: tiff.read_header(data).picture.size_wh,
}
