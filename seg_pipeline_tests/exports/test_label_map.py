"""One number for each pixel."""

from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from seg_pipeline.exports import Export
from seg_pipeline_tests.exports.exporting import blobs, export_of, exported, mask_of


def labels_of(export: Export) -> np.ndarray:
    data = np.frombuffer(exported("label-map", export), np.uint8)
    labels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    assert labels is not None
    assert labels.dtype == np.uint16
    return labels


def test_the_smaller_segment_is_on_top() -> None:
    export = export_of("####/####/####", "..../.##./....", "..../..#./....")
    assert labels_of(export).tolist() == [[1, 1, 1, 1], [1, 2, 3, 1], [1, 1, 1, 1]]


def test_of_equals_the_later_one_is_on_top() -> None:
    assert labels_of(export_of("##.", ".##")).tolist() == [[1, 2, 2]]


@pytest.mark.parametrize("pixels", [4_000_000, 64 * 5])
def test_every_pixel_has_the_number_of_the_smallest_segment_there(
    pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many rows are drawn at once."""
    monkeypatch.setattr("seg_pipeline.imaging.pixels.STRIP_PIXELS", pixels)
    export = export_of(*blobs(12))
    expected = np.zeros((48, 64), dtype=np.uint16)
    for index in range(12):
        expected[mask_of(export, index)] = index + 1
    assert np.array_equal(labels_of(export), expected)
    pillow = np.asarray(Image.open(BytesIO(exported("label-map", export))))
    assert np.array_equal(pillow, expected)


def test_a_picture_without_segments_is_background() -> None:
    assert not labels_of(export_of()).any()
