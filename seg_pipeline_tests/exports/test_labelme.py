"""labelme's file, read by its rules.

labelme needs Qt and onnxruntime to be imported, so what it checks of a shape (`_label_file.py` of
6.3) and how it draws a polygon (`shape_to_mask`: Pillow, outline and fill) is written down here.
"""

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from seg_pipeline.domain import BoolMask
from seg_pipeline.exports import Export
from seg_pipeline_tests.exports.exporting import blobs, export_of, exported, mask_of

KEYS = {"label", "points", "group_id", "shape_type", "flags", "description", "mask"}


def document_of(export: Export) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(exported("labelme", export))
    return document


def drawn(shape: dict[str, Any], size: tuple[int, int]) -> BoolMask:
    """As `labelme.utils.shape_to_mask` draws it."""
    assert len(shape["points"]) > 2
    mask = Image.new("L", size[::-1])
    points = [tuple(point) for point in shape["points"]]
    ImageDraw.Draw(mask).polygon(points, outline=1, fill=1)
    return np.array(mask, dtype=np.bool_)


@pytest.mark.parametrize(("tolerance", "least"), [(0.0, 0.995), (None, 0.975)])
def test_labelme_draws_nearly_the_same_masks(tolerance: float | None, least: float) -> None:
    export = export_of(*blobs(5, 640, 480), tolerance=tolerance)
    shapes = document_of(export)["shapes"]
    for index in range(5):
        mask = mask_of(export, index)
        again = np.zeros_like(mask)
        for shape in (each for each in shapes if each["group_id"] == index):
            again |= drawn(shape, mask.shape)
        assert (again & mask).sum() / (again | mask).sum() >= least


def test_every_shape_is_as_labelme_wants_it() -> None:
    document = document_of(export_of(*blobs(3), labels="disc bar disc"))
    for shape in document["shapes"]:
        assert shape.keys() == KEYS
        assert isinstance(shape["label"], str)
        assert all(len(point) == 2 for point in shape["points"])
        assert (shape["shape_type"], shape["flags"], shape["mask"]) == ("polygon", {}, None)
        assert isinstance(shape["group_id"], int)
    assert {shape["label"] for shape in document["shapes"]} == {"bar", "disc"}


def test_the_picture_is_looked_for_beside_the_file() -> None:
    document = document_of(export_of(*blobs(1)))
    assert (document["imagePath"], document["imageData"]) == ("job-1.webp", None)
    assert (document["imageWidth"], document["imageHeight"]) == (64, 48)
    assert document["flags"] == {}
