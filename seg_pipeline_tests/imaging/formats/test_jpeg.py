"""JPEG: a missing end marker does no harm, a missing part does, and nothing goes on without end."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from seg_pipeline.errors import (
    ImageTooCostly,
    TruncatedImage,
    UnsupportedImage,
)
from seg_pipeline.imaging.formats import jpeg
from seg_pipeline.imaging.images import decode, identify, read
from seg_pipeline.local.sample import BUNDLED
from seg_pipeline_tests import picture_files as files
from seg_pipeline_tests.builders import picture_bytes, saved

LIMIT = 100_000


WHOLE = picture_bytes(files.blocks(), "JPEG", quality=95)
NOISE = np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8)


@pytest.mark.parametrize("tail", [b"", b"\xff", b"\r\n", bytes(64)])
def test_a_jpeg_without_its_end_marker_is_whole_and_noted(tail: bytes) -> None:
    found = read(WHOLE[:-2] + tail, LIMIT)
    assert np.array_equal(found.pixels, decode(WHOLE, LIMIT))
    assert found.notes == ("The JPEG's end is missing; its pixels are there.",)
    assert read(WHOLE, LIMIT).notes == ()


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
@pytest.mark.parametrize("missing", [2_000, 9_000, 20_000])
def test_a_jpeg_of_which_a_part_is_missing_is_truncated(
    options: dict[str, Any], missing: int
) -> None:
    data = picture_bytes(NOISE, "JPEG", **options)
    with pytest.raises(TruncatedImage, match="truncated or damaged"):
        decode(data[:-missing], LIMIT)


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 8}],
    ids=str,
)
@pytest.mark.parametrize("kept", [0.05, 0.3, 0.6, 0.9])
def test_a_jpeg_of_a_plain_scene_that_breaks_off_is_truncated(
    options: dict[str, Any], kept: float
) -> None:
    """Few bytes make many pixels of a drawn shape, so what is missing looks like what is
    there."""
    data = picture_bytes(np.asarray(Image.open(BUNDLED).convert("RGB")), "JPEG", **options)
    with pytest.raises(TruncatedImage, match="truncated or damaged"):
        decode(data[: int(kept * len(data))], 1_000_000)


def test_scans_without_end_are_refused() -> None:
    """A few kilobytes of the same scan again and again took 44 seconds."""
    data = saved(Image.new("L", (64, 64)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert decode(data[:-2] + last * 5 + data[-2:], LIMIT).shape == (64, 64, 3)
    with pytest.raises(ImageTooCostly, match="scans"):
        decode(data[:-2] + last * jpeg.MAX_SCANS + data[-2:], LIMIT)


@pytest.mark.parametrize("filling", [b"\xff\xe0\0\2", b"\xff\xfe\0\3x", b"\xff" * 20])
def test_segments_without_end_are_refused_by_the_header(filling: bytes) -> None:
    """32 MB of empty segments took 15 seconds and a gigabyte."""
    data = WHOLE[:2] + filling * 5_000 + WHOLE[2:]
    with pytest.raises(ImageTooCostly, match="segments"):
        identify(data, LIMIT)


def test_a_kind_of_jpeg_that_is_not_read_is_called_unsupported() -> None:
    at = WHOLE.index(b"\xff\xc0")
    twelve_bits = WHOLE[: at + 4] + b"\x0c" + WHOLE[at + 5 :]
    with pytest.raises(UnsupportedImage, match="not read"):
        decode(twelve_bits, LIMIT)
