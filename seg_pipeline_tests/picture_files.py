"""Files written by hand, for what Pillow reads but does not write, and for what nobody should
write."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
import pillow_heif
from PIL import Image

from seg_pipeline.domain import RgbImage

Tag = tuple[int, Sequence[int | float]]
"""A TIFF's field type, and its values."""

SIZE = (12, 8)
GREY = np.full(SIZE[::-1], 3000, np.uint16)
"""A dark picture of 16 bits with a bright rectangle, of that width and height."""
GREY[2:6, 3:8] = 60_000

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
"""What no format can make small: a file that breaks off lacks some of it."""

_TYPE_CODES = {1: "B", 3: "H", 4: "I", 11: "f", 12: "d"}


def png_chunk(name: bytes, body: bytes, crc: int | None = None) -> bytes:
    """A chunk, with the checksum that fits or the one given."""
    checksum = zlib.crc32(name + body) if crc is None else crc
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)


def png(
    size_wh: tuple[int, int], depth: int, colour_type: int, rows: bytes, before: bytes = b""
) -> bytes:
    """A PNG of rows with their filter bytes, and of other chunks before its pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *size_wh, depth, colour_type, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + before
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def with_chunk_behind(whole: bytes, chunk: bytes) -> bytes:
    """The PNG with another chunk between its pixels and its end."""
    return whole[:-12] + chunk + whole[-12:]


def png_rows(rows: Sequence[bytes]) -> bytes:
    """Rows as an unfiltered PNG has them."""
    return b"".join(b"\0" + row for row in rows)


def tiff(size_wh: tuple[int, int], tags: Mapping[int, Tag], data: bytes, order: str = "<") -> bytes:
    """A TIFF of one strip. Tags given replace the usual ones."""
    width, height = size_wh
    usual: dict[int, Tag] = {256: (4, [width]), 257: (4, [height]), 259: (3, [1]), 273: (4, [0]),
                             278: (4, [height]),
                             279: (4, [len(data)])}  # fmt: skip
    entries = {**usual, **tags}
    packed = {
        tag: struct.pack(order + _TYPE_CODES[kind] * len(values), *values)
        for tag, (kind, values) in entries.items()
    }
    begin = 8 + 2 + 12 * len(entries) + 4
    outside = sum(len(body) + len(body) % 2 for body in packed.values() if len(body) > 4)
    packed[273] = struct.pack(order + "I", begin + outside)
    table, extra = b"", b""
    for tag in sorted(entries):
        kind, values = entries[tag]
        body = packed[tag]
        place = (
            body.ljust(4, b"\0") if len(body) <= 4 else struct.pack(order + "I", begin + len(extra))
        )
        extra += b"" if len(body) <= 4 else body + b"\0" * (len(body) % 2)
        table += struct.pack(order + "HHI", tag, kind, len(values)) + place
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return head + struct.pack(order + "H", len(entries)) + table + b"\0\0\0\0" + extra + data


def bmp_with_alpha(width: int, height: int, bgra: bytes, header_bytes: int = 108) -> bytes:
    """A 32-bit BMP with a V4 header (108 bytes) or a V5 one (124); rows from the bottom up."""
    head = struct.pack(
        "<IiiHHIIiiII", header_bytes, width, height, 1, 32, 3, len(bgra), 2835, 2835, 0, 0
    )
    head += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs"
    offset = 14 + header_bytes
    return (
        b"BM"
        + struct.pack("<IHHI", offset + len(bgra), 0, 0, offset)
        + head.ljust(header_bytes, b"\0")
        + bgra
    )


def heic(picture: Image.Image, **options: object) -> bytes:
    """The picture as a phone writes it."""
    pillow_heif.register_heif_opener()
    buffer = BytesIO()
    picture.save(buffer, "HEIF", **options)
    return buffer.getvalue()


def jxl(picture: Image.Image, **options: object) -> bytes:
    """The picture as JPEG XL, lossless unless said otherwise."""
    import pillow_jxl  # noqa: F401  registers the format

    buffer = BytesIO()
    picture.save(buffer, "JXL", **{"lossless": True, **options})
    return buffer.getvalue()


def media_file(brand: bytes, compatible: bytes = b"", boxes: bytes = b"") -> bytes:
    """An ISO base media file of one brand, with other boxes behind it."""
    body = brand + b"\0\0\0\0" + compatible
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body + boxes


def grey_rgb(grey: np.ndarray) -> RgbImage:
    """Grey levels `(H, W)` of 0 to 255 as a picture."""
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def blocks(width: int = 48, height: int = 32) -> RgbImage:
    """Flat colours, which lossy formats keep."""
    picture = np.full((height, width, 3), (200, 90, 30), np.uint8)
    picture[: height // 2, : width // 2] = (20, 160, 60)
    return picture


def with_orientation(picture: Image.Image, orientation: int) -> Image.Exif:
    """The picture's EXIF block with that orientation."""
    exif = picture.getexif()
    exif[0x0112] = orientation
    return exif
