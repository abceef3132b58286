"""Results as other libraries take them.

What is made here was also held against the libraries themselves, by hand, since they are not
installed here. fiftyone 1.22.1 makes its types without a database: `to_segmentation` paints each
mask where it is in the picture, to the pixel, and `to_dict` and `from_dict` keep it. Of
label-studio-sdk 2.1.2, `LabelInterface.validate_prediction` finds nothing wrong with rectangles,
polygons or masks, and its converter to COCO gives the same boxes, polygons and areas.
"""

from importlib.util import find_spec

import numpy as np
import pytest

from seg_client import Client, Result
from seg_client.brush import brush_run_lengths
from seg_client.conversions import detection_fields, fiftyone_fields
from seg_pipeline_tests.api.stand_ins import DRAWING
from seg_pipeline_tests.builders import bits, picture_bytes


@pytest.fixture
def result(client: Client) -> Result:
    """Two segments of a picture of 4 by 4 pixels."""
    return client.segment(picture_bytes())


def test_detections_have_a_row_for_each_segment(result: Result) -> None:
    fields = detection_fields(result, [each.mask() for each in result.segments])
    assert fields["xyxy"].tolist() == [[1, 1, 3, 3], [0, 0, 1, 1]]
    assert np.array_equal(fields["mask"][0], bits(DRAWING))
    assert fields["confidence"].tolist() == [0.75, 0.75]
    assert fields["class_id"].tolist() == [0, 0]
    assert fields["data"]["class_name"].tolist() == ["disc", "disc"]


def test_what_a_model_does_not_give_is_left_out(result: Result) -> None:
    update = {"label": None, "confidence": None, "predicted_iou": None}
    bare = result.model_copy(
        update={"segments": tuple(each.model_copy(update=update) for each in result.segments)}
    )
    fields = detection_fields(bare, [np.zeros((4, 4), bool)] * 2)
    assert (fields["confidence"], fields["class_id"], fields["data"]) == (None, None, {})


def test_a_result_without_segments_has_no_rows(result: Result) -> None:
    fields = detection_fields(result.model_copy(update={"segments": ()}), [])
    assert (fields["xyxy"].shape, fields["mask"].shape) == ((0, 4), (0, 4, 4))


@pytest.mark.skipif(find_spec("supervision") is not None, reason="supervision is installed")
def test_without_supervision_a_sentence_says_what_to_install(result: Result) -> None:
    with pytest.raises(ImportError, match=r"pip install 'seg-client\[supervision\]'"):
        result.to_supervision()


def test_a_label_studio_task_has_rectangles_in_percent(result: Result) -> None:
    task = result.to_label_studio("/data/a.png", tag="kind")
    assert task["data"] == {"image": "/data/a.png"}
    first = task["predictions"][0]["result"][0]
    assert (first["from_name"], first["to_name"], first["score"]) == ("kind", "image", 0.75)
    assert first["value"] == {
        "x": 25,
        "y": 25,
        "width": 50,
        "height": 50,
        "rotation": 0,
        "rectanglelabels": ["disc"],
    }


def test_fiftyones_detections_have_boxes_in_shares_and_masks_inside_them(result: Result) -> None:
    first, second = fiftyone_fields(result, [each.mask() for each in result.segments])
    assert (first["label"], first["bounding_box"], first["confidence"]) == (
        "disc",
        [0.25, 0.25, 0.5, 0.5],
        0.75,
    )
    assert first["mask"].tolist() == [[True, True], [True, True]]
    assert second["mask"].shape == (1, 1)


@pytest.mark.skipif(find_spec("fiftyone") is not None, reason="FiftyOne is installed")
def test_without_fiftyone_a_sentence_says_what_to_install(result: Result) -> None:
    with pytest.raises(ImportError, match=r"pip install 'seg-client\[fiftyone\]'"):
        result.to_fiftyone()


def test_a_label_studio_task_has_polygons_in_percent(result: Result) -> None:
    task = result.to_label_studio_polygons("/data/a.png", tag="kind")
    first, second = task["predictions"][0]["result"]
    assert (first["type"], first["from_name"], first["score"]) == ("polygonlabels", "kind", 0.75)
    assert first["value"]["polygonlabels"] == ["disc"]
    assert sorted(first["value"]["points"]) == [[25, 25], [25, 75], [75, 25], [75, 75]]
    assert first["id"] != second["id"]


def test_a_label_studio_task_has_masks_to_the_pixel(result: Result) -> None:
    task = result.to_label_studio_masks("/data/a.png", tag="kind")
    first, second = task["predictions"][0]["result"]
    assert (first["type"], first["from_name"], first["original_width"]) == (
        "brushlabels",
        "kind",
        4,
    )
    mask = result.segments[0].mask()
    assert first["value"] == {
        "brushlabels": ["disc"],
        "format": "rle",
        "rle": brush_run_lengths(mask),
    }
    assert first["id"] != second["id"]
