"""JPEG XL: the header is read without the decoder, and the very pixels come out."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from seg_pipeline.errors import (
    TooManyPixels,
    TruncatedImage,
)
from seg_pipeline.imaging.formats import jxl
from seg_pipeline.imaging.images import decode, identify
from seg_pipeline_tests import picture_files as files
from seg_pipeline_tests.builders import make_picture
from seg_pipeline_tests.picture_files import GREY

LIMIT = 100_000


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_the_very_pixels(mode: str) -> None:
    picture = Image.fromarray(make_picture(33, 17)).convert(mode)
    assert np.array_equal(decode(files.jxl(picture), LIMIT), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize(
    "size", [(8, 8), (33, 17), (256, 256), (264, 8), (3, 3000), (4000, 2250), (1000, 1250)]
)
def test_the_header_is_read_without_the_decoder(size: tuple[int, int]) -> None:
    assert jxl.header_of(files.jxl(Image.new("L", size), effort=1)) == (size, False)


def test_16_bit_grey_is_scaled_by_its_high_byte() -> None:
    assert np.array_equal(
        decode(files.jxl(Image.fromarray(GREY)), LIMIT), files.grey_rgb(GREY >> 8)
    )


def test_an_exif_block_does_not_turn_it_again() -> None:
    """ISO 18181 has the orientation in the codestream; the decoder has heeded it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = files.jxl(Image.fromarray(make_picture(33, 17)), exif=exif.tobytes())
    assert np.array_equal(decode(data, LIMIT), make_picture(33, 17))


def test_too_many_pixels_are_refused_before_anything_is_decoded() -> None:
    bits = (
        0 | 3 << 1 | (2**30 - 1) << 3
    ) | 1 << 33  # not small, 30 bits of height, as wide as high
    with pytest.raises(TooManyPixels):
        identify(jxl.CODESTREAM + bits.to_bytes(20, "little"), 50_000_000)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_picture_that_breaks_off_is_truncated(kept: float) -> None:
    data = files.jxl(files.NOISE)
    with pytest.raises(TruncatedImage, match="truncated or damaged"):
        decode(data[: int(len(data) * kept)], LIMIT)


def test_every_sides_length_of_jpeg_xl_fits_its_code() -> None:
    """The four lengths that a side may be written in, at their ends."""
    ends = [1, 2**9, 2**9 + 1, 2**13, 2**13 + 1, 2**18, 2**18 + 1, 2**30]
    for (low, high), selector, width in zip(
        list(pairwise(ends))[::2], range(4), (9, 13, 18, 30), strict=True
    ):
        for side in (low, high):
            bits = (
                0 | selector << 1 | (side - 1) << 3 | 1 << (3 + width)
            )  # ratio 1: as wide as high
            assert jxl.header_of(jxl.CODESTREAM + bits.to_bytes(20, "little"))[0] == (side, side)
