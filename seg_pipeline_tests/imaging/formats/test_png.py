"""PNG: the pixels come through whatever stands beside them, and a refusal names the reason."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from seg_pipeline.errors import (
    ImageTooCostly,
    TruncatedImage,
    UnsupportedImage,
)
from seg_pipeline.imaging.formats import png
from seg_pipeline.imaging.images import decode, identify
from seg_pipeline_tests import picture_files as files
from seg_pipeline_tests.builders import make_picture

LIMIT = 100_000
SIZE = (12, 8)


PICTURE = make_picture(*SIZE)
ROWS = files.png_rows([row.tobytes() for row in PICTURE])


def test_a_megabyte_of_text_beside_the_pixels_is_passed_over() -> None:
    """A workflow or generation parameters, which tools for drawing keep there."""
    text = files.png_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"node" * 500_000))
    assert np.array_equal(decode(files.png(SIZE, 8, 2, ROWS, text), LIMIT), PICTURE)
    behind = files.with_chunk_behind(files.png(SIZE, 8, 2, ROWS), text)
    assert np.array_equal(decode(behind, LIMIT), PICTURE)


@pytest.mark.parametrize(("name", "body"), [
    (b"tEXt", b"Software\0scanner"), (b"pHYs", bytes(9)),
    (b"iCCP", b"x\0\0" + zlib.compress(b"profile")),
    (b"eXIf", b"II*\0"), (b"gAMA", bytes(4)), (b"tRNS", bytes(6)),
])  # fmt: skip
def test_a_chunk_that_does_not_matter_may_be_flawed(name: bytes, body: bytes) -> None:
    flawed = files.png_chunk(name, body, crc=1)
    assert np.array_equal(decode(files.png(SIZE, 8, 2, ROWS, before=flawed), LIMIT), PICTURE)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_grey_is_white_in_every_depth(depth: int) -> None:
    most = 2**depth - 1
    levels = [0, 1] if depth == 1 else [0, 1, most, 1]
    bits = "".join(format(level, f"0{depth}b") for level in levels)
    row = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    hole = files.png_chunk(b"tRNS", struct.pack(">H", 1))
    decoded = decode(
        files.png((len(levels), 1), depth, 0, files.png_rows([row]), before=hole), LIMIT
    )
    expected = [255 if level == 1 else 255 * level // most for level in levels]
    assert decoded[0, :, 0].tolist() == expected


def test_imagemagicks_orientation_in_a_text_is_still_heeded() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = b"\nexif\n%8d\n" % len(exif.tobytes()) + exif.tobytes().hex().encode() + b"\n"
    text = files.png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw))
    assert decode(files.png(SIZE, 8, 2, ROWS, before=text), LIMIT).shape == (12, 8, 3)


def test_no_pixels_an_unknown_critical_chunk_and_apples_own_form_are_called_by_name() -> None:
    whole = files.png(SIZE, 8, 2, ROWS)
    cut = whole[: whole.index(b"IDAT") - 4] + files.png_chunk(b"IEND", b"")
    with pytest.raises(TruncatedImage, match="no pixels"):
        identify(cut, LIMIT)
    with pytest.raises(UnsupportedImage, match="ABCD"):
        identify(files.png(SIZE, 8, 2, ROWS, before=files.png_chunk(b"ABCD", b"")), LIMIT)
    with pytest.raises(UnsupportedImage, match="Apple"):
        identify(files.png(SIZE, 8, 2, ROWS, before=files.png_chunk(b"CgBI", b"1234")), LIMIT)


def test_a_chunk_whose_name_was_damaged_is_damage() -> None:
    damaged = files.png(SIZE, 8, 2, ROWS).replace(b"IDAT", b"IDAX")
    with pytest.raises(TruncatedImage, match="IDAX: the checksum is wrong"):
        identify(damaged, LIMIT)


def test_more_chunks_than_any_encoder_writes_are_refused() -> None:
    many = files.png_chunk(b"tEXt", b"") * png.MAX_CHUNKS
    with pytest.raises(ImageTooCostly, match="chunks"):
        identify(files.png(SIZE, 8, 2, ROWS, before=many), LIMIT)
