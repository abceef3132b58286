"""What a picture's header says, from a bounded scan: what Pillow says of whole pictures, and cheap
for any bytes."""

import struct
import time
import tracemalloc
from contextlib import suppress
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pillow_jxl import JpegXLImagePlugin

from seg_pipeline.errors import (
    AnimatedImage,
    EmptyImage,
    ImageError,
    NotAnImage,
    TooManyPixels,
    TruncatedImage,
)
from seg_pipeline.imaging.headers import has_known_signature, scan_header
from seg_pipeline_tests.builders import make_picture, picture_bytes, saved

LIMIT = 1_000_000
assert JpegXLImagePlugin  # its import teaches Pillow to write JPEG XL
MIB = 2**20


def scan(data: bytes, max_pixels: int = LIMIT) -> Any:
    with TemporaryFile() as file:
        file.write(data)
        return scan_header(file, max_pixels)


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("BMP", {}),
        ("GIF", {}),
        ("JPEG", {}),
        (
            "JPEG",
            {
                "progressive": True,
                "icc_profile": bytes(200_000),
                "exif": b"Exif\0\0" + bytes(60_000),
            },
        ),
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"big_tiff": True}),
        ("JXL", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0" + bytes(100)}),
    ],
)
def test_whole_pictures_say_their_format_and_size(format: str, options: dict[str, Any]) -> None:
    header = scan(picture_bytes(make_picture(31, 17), format, **options))
    assert (header.format, header.size_wh) == (format, (31, 17))
    with pytest.raises(TooManyPixels, match="MAX_IMAGE_PIXELS"):
        scan(picture_bytes(make_picture(31, 17), format, **options), 31 * 17 - 1)


def test_the_format_is_enough_where_only_a_decoder_knows_the_size() -> None:
    header = scan(picture_bytes(make_picture(31, 17), "AVIF"))
    assert (header.format, header.extension, header.size_wh) == ("AVIF", "avif", None)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_more_than_one_frame_is_refused_and_one_is_not(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    with pytest.raises(AnimatedImage, match="one frame"):
        scan(saved(frames[0], format, save_all=True, append_images=frames[1:]))
    assert scan(saved(frames[0], format, save_all=True)).size_wh == (8, 8)


def test_bytes_that_are_no_picture() -> None:
    with pytest.raises(EmptyImage):
        scan(b"")
    for data in (b"x", b"<svg/>", b"%!PS-Adobe-3.0", b"\xff\xd8", bytes(100)):
        with pytest.raises(NotAnImage, match="PNG"):
            scan(data)
        assert not has_known_signature(data)


@pytest.mark.parametrize("format", ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"])
def test_a_header_that_breaks_off_is_truncated_or_enough(format: str) -> None:
    """Whatever is left of it, there is an answer, and it is the right size if there is one."""
    whole = picture_bytes(make_picture(31, 17), format)
    for kept in range(16, min(len(whole), 700)):
        try:
            assert scan(whole[:kept]).size_wh in ((31, 17), None)
        except TruncatedImage:
            continue


def test_a_png_without_pixels_is_refused_before_it_is_decoded() -> None:
    data = picture_bytes(make_picture(31, 17), "PNG").replace(b"IDAT", b"IDAX")
    with pytest.raises(TruncatedImage, match="no pixels"):
        scan(data)


def test_a_picture_without_a_side_is_damaged() -> None:
    with pytest.raises(TruncatedImage, match="at least 1"):
        scan(b"BM" + bytes(12) + struct.pack("<Iii", 40, 0, 5) + bytes(30))


def many_empty_segments() -> bytes:
    whole = picture_bytes(format="JPEG")
    return whole[:2] + b"\xff\xee\x00\x02" * (8 * MIB) + whole[2:]


HOSTILE = {
    "JPEG of empty segments": many_empty_segments,
    "JPEG of fill bytes": lambda: b"\xff\xd8" + b"\xff" * (32 * MIB),
    "JPEG of segments that claim much": lambda: b"\xff\xd8\xff" + b"\xe1\xff\xff" * (10 * MIB),
    "PNG of empty chunks": lambda: (
        picture_bytes()[:33] + (bytes(4) + b"aaAa" + bytes(4)) * (2 * MIB)
    ),
    "GIF of small blocks": lambda: b"GIF89a\x08\0\x08\0\0\0\0\x21\xfe" + b"\x01x" * (16 * MIB),
    "WEBP of empty chunks": lambda: (
        b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\x02" + bytes(9) + b"EXIF\0\0\0\0" * (4 * MIB)
    ),
    "TIFF of many tags": lambda: (
        b"II*\0\x08\0\0\0\xff\xff" + b"\0\x02\x04\0\xff\xff\xff\xff\0\0\0\0" * (2 * MIB)
    ),
    "TIFF far away": lambda: b"MM\0*\xff\xff\xff\xff" + bytes(32 * MIB),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.process
def test_thirty_megabytes_of_header_cost_next_to_nothing(kind: str) -> None:
    """Pillow took 15 s and 1 GB for the first of them; here it is some 0.1 s and 1 MB, well below
    the bounds."""
    with TemporaryFile() as file:
        file.write(HOSTILE[kind]())
        tracemalloc.start()
        began = time.process_time()
        with suppress(ImageError):
            scan_header(file, LIMIT)
    seconds, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * MIB
    assert seconds < 10


def test_a_jpeg_with_as_many_segments_as_cameras_write_is_read() -> None:
    """Depth maps come as extended XMP, some hundred segments of 64 KB before the size."""
    whole = picture_bytes(make_picture(31, 17), "JPEG")
    many = whole[:2] + (b"\xff\xe1\xff\xff" + bytes(0xFFFD)) * 300 + whole[2:]
    assert scan(many).size_wh == (31, 17)


def test_no_bytes_are_a_surprise() -> None:
    """An ImageError or a header, and never anything else."""
    random = np.random.default_rng(0)
    wholes = [
        picture_bytes(format=format)
        for format in ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP", "AVIF")
    ]
    for _ in range(4000):
        data = bytearray(wholes[random.integers(len(wholes))])
        for _ in range(random.integers(1, 8)):
            data[random.integers(4, min(len(data), 200))] = random.integers(256)
        try:
            scan(bytes(data[: random.integers(1, len(data) + 1)]))
        except ImageError:
            continue
