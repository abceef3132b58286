"""HEIF and its kin: the header tells the size, and what only calls itself so is no picture."""

import struct

import numpy as np
import pytest
from PIL import Image

from seg_pipeline.errors import (
    NotAnImage,
    TooManyPixels,
    TruncatedImage,
)
from seg_pipeline.imaging.images import decode, identify, read
from seg_pipeline_tests import picture_files as files
from seg_pipeline_tests.builders import picture_bytes

LIMIT = 100_000


def test_pixels_nearly_those_of_the_picture() -> None:
    decoded = decode(files.heic(Image.fromarray(files.blocks()), quality=95), LIMIT)
    assert np.abs(decoded.astype(int) - files.blocks()).mean() < 3


def test_the_header_tells_format_extension_and_size() -> None:
    header = identify(files.heic(Image.fromarray(files.blocks())), LIMIT)
    assert (header.format, header.extension, header.width, header.height) == (
        "HEIF",
        "heic",
        48,
        32,
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_phones_orientation_is_heeded_once(orientation: int) -> None:
    """It stands in the file's own properties and in its EXIF, which says the same again."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = decode(picture_bytes(files.blocks(), "PNG", exif=exif), LIMIT)
    decoded = decode(
        files.heic(Image.fromarray(files.blocks()), quality=95, exif=exif.tobytes()), LIMIT
    )
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).mean() < 4


def test_alpha_is_flattened_on_white() -> None:
    assert (
        decode(files.heic(Image.new("RGBA", (32, 32), (0, 0, 0, 0)), quality=95), LIMIT).min() > 250
    )


def test_of_several_pictures_the_primary_one_is_taken_and_noted() -> None:
    first, second = Image.fromarray(files.blocks()), Image.new("RGB", (48, 32))
    found = read(files.heic(first, append_images=[second], save_all=True), LIMIT)
    assert np.abs(found.pixels.astype(int) - files.blocks()).mean() < 6
    assert found.notes == ("The file has 2 pictures; its primary one was taken.",)


def test_too_many_pixels_are_refused_by_the_header() -> None:
    with pytest.raises(TooManyPixels):
        identify(files.heic(Image.new("RGB", (64, 64))), 64 * 64 - 1)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_picture_that_breaks_off_is_truncated(kept: float) -> None:
    data = files.heic(files.NOISE)
    with pytest.raises(TruncatedImage, match="truncated or damaged"):
        decode(data[: int(len(data) * kept)], LIMIT)


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"msf1", b"avif"])
def test_what_only_calls_itself_so_is_no_picture(brand: bytes) -> None:
    boxes = struct.pack(">I", 8) + b"mdat" + bytes(300)
    with pytest.raises(NotAnImage, match="no picture in them"):
        identify(files.media_file(brand, b"mif1heic", boxes), LIMIT)


@pytest.mark.parametrize("brand", [b"isom", b"mp42", b"qt  ", b"M4A "])
def test_a_video_is_called_a_video(brand: bytes) -> None:
    with pytest.raises(NotAnImage, match="video"):
        identify(files.media_file(brand), LIMIT)
