"""Grey masks, read the way that people read masks."""

from io import BytesIO
from zipfile import ZipFile

import cv2
import numpy as np
import pytest
from PIL import Image

from seg_pipeline.exports import Export
from seg_pipeline_tests.exports.exporting import blobs, export_of, exported, mask_of

EXPORT = export_of(*blobs(3))


def read_by_cv2(png: bytes, flags: int) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), flags)
    assert pixels is not None
    return pixels


@pytest.mark.parametrize("flags", [cv2.IMREAD_GRAYSCALE, cv2.IMREAD_UNCHANGED])
def test_opencv_reads_0_and_255(flags: int) -> None:
    for index in range(3):
        png = exported("mask", Export(EXPORT.picture, EXPORT.files, segment_id=index))
        assert np.array_equal(read_by_cv2(png, flags), mask_of(EXPORT, index) * np.uint8(255))


def test_pillow_reads_0_and_255_without_a_conversion() -> None:
    pixels = np.asarray(Image.open(BytesIO(exported("mask", EXPORT))))
    assert np.array_equal(pixels, mask_of(EXPORT, 0) * np.uint8(255))


def test_the_transparent_mask_read_the_same_way_is_all_zeros() -> None:
    """Why there are grey ones."""
    png = EXPORT.files.get("mask_images/mask_000.png")
    assert not read_by_cv2(png, cv2.IMREAD_GRAYSCALE).any()


def test_the_zip_holds_the_mask_of_every_segment_by_its_number() -> None:
    with ZipFile(BytesIO(exported("masks", EXPORT))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"masks/mask_{index:03d}.png" for index in range(3)]
        for index, name in enumerate(archive.namelist()):
            pixels = read_by_cv2(archive.read(name), cv2.IMREAD_GRAYSCALE)
            assert np.array_equal(pixels > 0, mask_of(EXPORT, index))
