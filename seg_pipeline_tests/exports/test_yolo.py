"""The dataset as ultralytics itself reads and draws it."""

from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from ultralytics.data.utils import check_det_dataset, polygon2mask, verify_image_label

from seg_pipeline.domain import BoolMask
from seg_pipeline.exports import Export
from seg_pipeline_tests.exports.exporting import blobs, export_of, exported, mask_of


def unzipped(folder: Path, export: Export) -> Path:
    with ZipFile(BytesIO(exported("yolo", export))) as archive:
        archive.extractall(folder)
    return folder


def read_by_ultralytics(folder: Path, classes: int = 80) -> tuple[list[int], list[Any]]:
    """Classes and segments, as its dataset reads them before it trains."""
    names = (str(folder / "images/job-1.webp"), str(folder / "labels/job-1.txt"))
    _, labels, shape, segments, *_, found, _, corrupt, message = verify_image_label(
        (*names, "", False, classes, 0, 0, False)
    )
    assert (found, corrupt, message) == (1, 0, "")
    assert shape is not None
    return [int(row[0]) for row in labels], segments


def drawn_by_ultralytics(segment: np.ndarray, shape: tuple[int, int]) -> BoolMask:
    """The mask that it trains on, at the picture's size."""
    scaled = segment * np.array(shape[::-1], dtype=np.float32)
    return polygon2mask(shape, [scaled.reshape(-1)]).astype(np.bool_)


def iou(one: BoolMask, other: BoolMask) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize(("tolerance", "least"), [(0.0, 0.995), (None, 0.975)])
def test_ultralytics_draws_nearly_the_same_masks(
    tmp_path: Path, tolerance: float | None, least: float
) -> None:
    """With holes and parts, which hang on lines of a pixel's width."""
    export = export_of(*blobs(6, 640, 480), tolerance=tolerance)
    _, segments = read_by_ultralytics(unzipped(tmp_path, export))
    assert len(segments) == 6
    for index, segment in enumerate(segments):
        mask = mask_of(export, index)
        assert iou(drawn_by_ultralytics(segment, mask.shape), mask) >= least


def test_a_mask_of_one_part_without_holes_is_drawn_to_the_pixel(tmp_path: Path) -> None:
    y, x = np.mgrid[:120, :160]
    disc = np.hypot(x - 70, y - 50) < 40
    export = export_of(disc, tolerance=0.0)
    _, (segment,) = read_by_ultralytics(unzipped(tmp_path, export))
    assert np.array_equal(drawn_by_ultralytics(segment, disc.shape), disc)


def test_a_mask_of_one_pixel_is_a_segment_and_not_a_box(tmp_path: Path) -> None:
    dot = np.zeros((20, 20), dtype=np.bool_)
    dot[5, 7] = True
    _, (segment,) = read_by_ultralytics(unzipped(tmp_path, export_of(dot)))
    assert np.array_equal(drawn_by_ultralytics(segment, dot.shape), dot)


def test_the_names_belong_to_the_numbers(tmp_path: Path) -> None:
    export = export_of(*blobs(3), labels="disc bar disc")
    folder = unzipped(tmp_path, export)
    described = check_det_dataset(str(folder / "data.yaml"), autodownload=False)
    assert described["names"] == {0: "bar", 1: "disc"}
    classes, _ = read_by_ultralytics(folder, classes=2)
    labels = [segment.label for segment in export.picture.segments]
    assert [described["names"][number] for number in classes] == labels


def test_a_picture_without_segments_is_one_of_background(tmp_path: Path) -> None:
    folder = unzipped(tmp_path, export_of())
    assert (folder / "labels/job-1.txt").read_bytes() == b""
    assert check_det_dataset(str(folder / "data.yaml"), autodownload=False)["names"] == {
        0: "object"
    }
