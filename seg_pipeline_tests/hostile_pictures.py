"""Pictures of every format with every flaw, from a seed, and what each must be called.

`make fuzz` sends thousands of them through the whole service; the tests decode a few of each kind.
"""

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from PIL import Image

from seg_pipeline_tests import picture_files as files
from seg_pipeline_tests.builders import picture_bytes, saved

COMPLETED = "completed"
NO_MASKS = "no_masks_found"
DAMAGED = frozenset({"truncated_image", "unsupported_image", "not_an_image", "image_too_costly",
                     "animated_image",
                     "too_many_pixels", "undecodable_image", "empty_image"})  # fmt: skip
"""What bytes that were changed at random may turn out to be."""


@dataclass(frozen=True)
class HostilePicture:
    """One picture, and the outcomes that are right: `completed`, or the code of a refusal or a
    failure."""

    format: str
    flaw: str
    data: bytes
    outcomes: frozenset[str]


Flaw = Callable[[bytes, random.Random], bytes]


def hostile_pictures(count: int, seed: int) -> Iterator[HostilePicture]:
    """So many pictures; the same again for the same seed."""
    rng = random.Random(seed)
    kinds = [*_damage(), *_oddities()]
    for index in range(count):
        format_, flaw, make, outcomes = kinds[index % len(kinds)]
        yield HostilePicture(format_, flaw, make(rng), outcomes)


Kind = tuple[str, str, Callable[[random.Random], bytes], frozenset[str]]


def _damage() -> Iterator[Kind]:
    """Every format with every way in which bytes are lost or changed."""
    for format_ in (
        "JPEG",
        "JPEG progressive",
        "PNG",
        "WEBP",
        "GIF",
        "BMP",
        "TIFF",
        "TIFF LZW",
        "HEIF",
        "AVIF",
        "JXL",
    ):
        yield format_, "none", partial(_damaged, format_, _keep), frozenset({COMPLETED})
        for name, flaw in FLAWS.items():
            outcomes = (
                DAMAGED | {COMPLETED}
                if name != "cut in half"
                else frozenset({"truncated_image", "not_an_image"})
            )
            yield format_, name, partial(_damaged, format_, flaw), outcomes


def _damaged(format_: str, flaw: Flaw, rng: random.Random) -> bytes:
    return flaw(whole(format_, rng.randrange(4)), rng)


def _oddities() -> Iterator[Kind]:
    """What has a right name of its own."""
    for format_, flaw, make, outcome in ODDITIES:
        yield format_, flaw, partial(_without_chance, make), frozenset({outcome})


def _without_chance(make: Callable[[], bytes], _: random.Random) -> bytes:
    return make()


SAVE_OPTIONS: dict[str, dict[str, object]] = {
    "": {},
    "progressive": {"progressive": True},
    "LZW": {"compression": "tiff_lzw"},
}


@cache
def whole(format_: str, variant: int) -> bytes:
    """A picture without a flaw: shapes, noise, one flat colour, or a strip of few rows."""
    picture = _pictures()[variant]
    plain, _, kind = format_.partition(" ")
    make = {"HEIF": files.heic, "JXL": files.jxl}.get(plain)
    if make:
        return make(Image.fromarray(picture))
    return picture_bytes(picture, plain, **SAVE_OPTIONS[kind])


@cache
def _pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = np.full((96, 128, 3), 230, np.uint8)
    shapes[16:64, 16:64] = (200, 40, 40)
    shapes[40:80, 80:112] = (30, 60, 180)
    noise = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    return [shapes, noise, np.full((48, 48, 3), 90, np.uint8), shapes[20:28].copy()]


def _keep(data: bytes, _: random.Random) -> bytes:
    return data


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(1, len(data))]


def _flip(data: bytes, rng: random.Random, count: int = 8) -> bytes:
    changed = bytearray(data)
    for _ in range(count):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _flip_header(data: bytes, rng: random.Random) -> bytes:
    size = min(len(data), 256)
    return _flip(data[:size], rng, 4) + data[size:]


def _extreme_numbers(data: bytes, rng: random.Random) -> bytes:
    """Sizes, counts and offsets become the numbers at which arithmetic breaks."""
    changed = bytearray(data)
    for _ in range(3):
        number = rng.choice(
            (
                b"\xff\xff\xff\xff",
                b"\x7f\xff\xff\xff",
                b"\0\0\0\0",
                b"\x80\0\0\0",
                b"\xff\xff\xff\x7f",
            )
        )
        at = rng.randrange(4, min(len(changed) - 4, 512))
        changed[at : at + 4] = number
    return bytes(changed)


def _drop(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) - 1)
    return data[:at] + data[at + rng.randrange(1, 64) :]


def _double(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) - 1)
    piece = data[at : at + rng.randrange(1, 512)]
    return data[:at] + piece + data[at:]


def _zeros(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) - 1)
    size = min(len(data) - at, rng.randrange(1, 512))
    return data[:at] + bytes(size) + data[at + size :]


FLAWS: dict[str, Flaw] = {
    "cut in half": lambda data, _: data[: len(data) // 2],
    "cut anywhere": _cut,
    "bytes changed": _flip,
    "header changed": _flip_header,
    "extreme numbers": _extreme_numbers,
    "bytes missing": _drop,
    "bytes doubled": _double,
    "bytes zeroed": _zeros,
    "followed by noise": lambda data, rng: data + rng.randbytes(2_000),
}

_GREY = {258: (3, [8]), 262: (3, [1])}


def _many_segments() -> bytes:
    data = whole("JPEG", 0)
    return data[:2] + b"\xff\xe0\0\2" * 200_000 + data[2:]


def _many_scans() -> bytes:
    data = saved(Image.new("L", (64, 64)), "JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * 2_000 + data[-2:]


def _text_bomb() -> bytes:
    text = files.png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(20_000_000)))
    return files.png((32, 32), 8, 0, files.png_rows([bytes(32)] * 32), text)


def _animated(format_: str) -> bytes:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    return saved(frames[0], format_, save_all=True, append_images=frames[1:])


def _circle() -> bytes:
    data = bytearray(files.tiff((16, 16), _GREY, bytes(256)))
    struct.pack_into("<I", data, 10 + 12 * struct.unpack_from("<H", data, 8)[0], 8)
    return bytes(data)


def _huge_tile() -> bytes:
    return files.tiff((16, 16), {**_GREY, 322: (4, [32_000]), 323: (4, [32_000])}, b"")


def _white_is_0() -> bytes:
    return files.tiff((16, 16), {258: (3, [16]), 262: (3, [0])}, bytes(512))


ODDITIES: list[tuple[str, str, Callable[[], bytes], str]] = [
    ("nothing", "no bytes", lambda: b"", "empty_image"),
    ("text", "no picture", lambda: b"hello, this is no picture", "not_an_image"),
    ("SVG", "another format", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
    ("JPEG 2000", "another format", lambda: saved(Image.new("RGB", (16, 16)), "JPEG2000"),
     "not_an_image"),
    ("MP4", "a video", lambda: files.media_file(b"mp42"), "not_an_image"),
    ("HEIF", "nothing in it", lambda: files.media_file(b"heic", b"mif1"), "not_an_image"),
    ("PNG", "too many pixels", lambda: files.png((30_000, 30_000), 8, 2, b""), "too_many_pixels"),
    ("JPEG", "segments without end", _many_segments, "image_too_costly"),
    ("JPEG", "scans without end", _many_scans, "image_too_costly"),
    ("JPEG", "no end marker", lambda: whole("JPEG", 0)[:-2], COMPLETED),
    ("PNG", "chunks without end", lambda: files.png((8, 8), 8, 0, files.png_rows([bytes(8)] * 8),
                                                    files.png_chunk(b"tEXt", b"") * 150_000),
                                                    "image_too_costly"),
    ("PNG", "a comment of 20 MB", _text_bomb, COMPLETED),
    ("PNG", "a comment with a wrong checksum",
     lambda: files.png((8, 8), 8, 0, files.png_rows([bytes(8)] * 8),
                                                                 files.png_chunk(b"tEXt", b"a\0b",
                                                                                 crc=1)),
                                                                                 COMPLETED),
    ("PNG", "Apple's own form", lambda: files.png((8, 8), 8, 0, b"",
                                                  files.png_chunk(b"CgBI", b"1234")),
     "unsupported_image"),
    ("GIF", "two frames", lambda: _animated("GIF"), "animated_image"),
    ("WEBP", "two frames", lambda: _animated("WEBP"), "animated_image"),
    ("PNG", "two frames", lambda: _animated("PNG"), "animated_image"),
    ("TIFF", "two pictures", lambda: _animated("TIFF"), "animated_image"),
    ("TIFF", "a tile of a gigabyte", _huge_tile, "image_too_costly"),
    ("TIFF", "a camera's raw file", lambda: files.tiff((16, 16),
                                                       {**_GREY, 50706: (1, [1, 4, 0, 0])},
                                                       bytes(256)),
     "unsupported_image"),
    ("TIFF", "LERC", lambda: files.tiff((16, 16), {**_GREY, 259: (3, [34887])}, bytes(256)),
     "unsupported_image"),
    ("TIFF", "24 bits a sample", lambda: files.tiff((16, 16), {258: (3, [24]), 262: (3, [1])},
                                                    bytes(768)),
     "unsupported_image"),
    ("TIFF", "directories in a circle", _circle, COMPLETED),
    ("TIFF", "16 bits, 0 is white", _white_is_0, COMPLETED),
    ("CR3", "a camera's raw file", lambda: files.media_file(b"crx "), "unsupported_image"),
    ("RAF", "a camera's raw file", lambda: b"FUJIFILMCCD-RAW 0201" + bytes(64),
     "unsupported_image"),
]  # fmt: skip
