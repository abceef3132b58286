"""PNG (W3C, third edition): the chunks that matter for its pixels."""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from seg_pipeline.errors import ImageTooCostly, TruncatedImage, UnsupportedImage

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 100_000
"""Encoders write chunks of 8 kB and more."""

_MAX_TEXT_BYTES = 65_536
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_OF_ANIMATIONS = (b"acTL",)
_OF_COLOURS = (b"tRNS", b"iCCP")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_TEXTS_ABOUT_ORIENTATION = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")


class Chunk(NamedTuple):
    """One chunk. `whole` includes its length and checksum."""

    name: bytes
    body: memoryview
    whole: memoryview

    @property
    def is_ancillary(self) -> bool:
        """Whether a reader may ignore it (the fifth bit of its first letter)."""
        return bool(self.name[0] & 0x20)

    @property
    def is_intact(self) -> bool:
        """Whether its checksum is right."""
        checksum = zlib.crc32(self.body, zlib.crc32(self.name))
        return len(self.whole) == len(self.body) + 12 and bytes(self.whole[-4:]) == struct.pack(
            ">I", checksum
        )


def essential(data: bytes, *, pixels: bool = True) -> bytes:
    """The picture without the chunks that do not matter for its pixels.

    As in libpng and browsers, a damaged or endless comment is ignored. Without `pixels` the result
    ends where they begin. Raises TruncatedImage for a file without pixels or with a damaged chunk,
    UnsupportedImage for an undefined critical chunk, and ImageTooCostly for more chunks than a
    picture needs.
    """
    kept: list[bytes | memoryview] = [SIGNATURE]
    for count, chunk in enumerate(chunks(data)):
        if count >= MAX_CHUNKS:
            raise ImageTooCostly(
                f"The PNG picture has more than {MAX_CHUNKS} chunks; save it anew."
            )
        if not chunk.is_ancillary and chunk.name not in _CRITICAL:
            raise _unknown_chunk(chunk)
        if _matters(chunk):
            kept.append(chunk.whole)
        if chunk.name == b"IDAT" and not pixels:
            return b"".join(kept)
    if not any(bytes(part[4:8]) == b"IDAT" for part in kept):
        raise without_pixels()
    return b"".join(kept)


def without_pixels() -> TruncatedImage:
    """The error for a file without pixels."""
    return TruncatedImage("The PNG picture has no pixels (no IDAT chunk).")


def chunks(data: bytes) -> Iterator[Chunk]:
    """The chunks in order. The last one may be cut off."""
    view, at = memoryview(data), len(SIGNATURE)
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if not name.isalpha():
            # Left to the decoder, which knows what to say.
            yield Chunk(b"IEND", view[:0], view[at:])
            return
        yield Chunk(name, view[at + 8 : at + 8 + length], view[at : at + 12 + length])
        if name == b"IEND":
            return
        at += 12 + length


def grey_depth(data: bytes) -> int | None:
    """The bits of a sample if the picture is grey without alpha, else None."""
    depth, colour_type = data[24], data[25]
    return depth if colour_type == 0 else None


def _matters(chunk: Chunk) -> bool:
    if not chunk.is_ancillary:
        return True
    if chunk.name in _TEXTS:
        return _tells_the_orientation(chunk) and chunk.is_intact
    return chunk.name in (*_OF_ANIMATIONS, *_OF_COLOURS, b"eXIf") and chunk.is_intact


def _tells_the_orientation(chunk: Chunk) -> bool:
    """Whether a text chunk may hold the orientation, since ImageMagick keeps EXIF in one.

    A compressed chunk that grows without measure does not count.
    """
    begin = bytes(chunk.body[:32])
    if len(chunk.body) > _MAX_TEXT_BYTES or not begin.startswith(_TEXTS_ABOUT_ORIENTATION):
        return False
    packed = bytes(chunk.body).partition(b"\0\0")[2]
    if chunk.name == b"iTXt":
        return True
    unpacking = zlib.decompressobj()
    try:
        return (
            chunk.name == b"tEXt"
            or len(unpacking.decompress(packed, _MAX_TEXT_BYTES)) < _MAX_TEXT_BYTES
        )
    except zlib.error:
        return False


def _unknown_chunk(chunk: Chunk) -> TruncatedImage | UnsupportedImage:
    """The error for an unknown critical chunk. With a wrong checksum, its name is the damage."""
    name = chunk.name.decode("ascii", "replace")
    if not chunk.is_intact:
        return TruncatedImage(
            f"The PNG picture is damaged at its chunk {name}: the checksum is wrong."
        )
    if name == "CgBI":
        return UnsupportedImage(
            "The PNG picture is in Apple's own form for apps (CgBI); send an ordinary PNG."
        )
    return UnsupportedImage(
        f"The PNG picture needs a decoder for its chunk {name}; save it as a plain PNG."
    )
