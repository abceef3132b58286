from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seg_pipeline.demo.scenes import make_scene
from seg_pipeline.domain import RgbImage, Segment, check_parameters
from seg_pipeline.segmenters.sam2.embeddings import EmbeddingFolder
from seg_pipeline.segmenters.sam2.segmenter import Sam2Segmenter
from seg_pipeline.segmenters.tiling import TiledSegmenter
from seg_pipeline.segmenters.weights.locate import BUNDLED

pytestmark = pytest.mark.process

WEIGHTS = BUNDLED / "demo-sam2.pt"


@pytest.fixture(scope="module")
def segmenter() -> Sam2Segmenter:
    return Sam2Segmenter("demo-sam2", WEIGHTS, "cpu")


@pytest.fixture(scope="module")
def picture() -> RgbImage:
    return make_scene(4, width=420, height=300).image


def prompted(segmenter: Any, picture: RgbImage, **parameters: Any) -> list[Segment]:
    (segments,) = segmenter.segment([picture], check_parameters("demo-sam2", parameters))
    return list(segments)


def upstreams(
    segmenter: Sam2Segmenter, picture: RgbImage, multimask: bool, **prompt: Any
) -> tuple[Any, Any]:
    """The masks `(m, H, W)` of upstream's predictor, and its scores."""
    assert segmenter._upstream
    predictor = segmenter._upstream.predictor
    with torch.inference_mode():
        predictor.set_image(picture)
        masks, scores, _ = predictor.predict(**prompt, multimask_output=multimask)
        predictor.reset_predictor()
    return masks.astype(bool), scores


PROMPTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"points": [[210, 150, 1]]},
        {"point_coords": np.array([[210, 150]]), "point_labels": np.array([1])},
    ),
    (
        {"points": [[100, 80.5, 1], [300, 200, 0], [120, 90, 1]]},
        {
            "point_coords": np.array([[100, 80.5], [300, 200], [120, 90]]),
            "point_labels": np.array([1, 0, 1]),
        },
    ),
    ({"box": [60, 40, 260, 220]}, {"box": np.array([60, 40, 260, 220])}),
    (
        {"points": [[100, 80, 0]], "box": [60, 40, 420, 300]},
        {
            "box": np.array([60, 40, 420, 300]),
            "point_coords": np.array([[100, 80]]),
            "point_labels": np.array([0]),
        },
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), PROMPTS, ids=[str(ours) for ours, _ in PROMPTS])
def test_all_three_masks_are_those_of_upstreams_predictor(
    segmenter: Sam2Segmenter, picture: RgbImage, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    masks, scores = upstreams(segmenter, picture, True, **theirs)
    segments = prompted(segmenter, picture, **ours, multimask=True)
    there = [index for index in range(3) if masks[index].any()]
    assert [segment.mask.full().tobytes() for segment in segments] == [
        masks[index].tobytes() for index in there
    ]
    assert [segment.predicted_iou for segment in segments] == pytest.approx(
        [float(scores[index]) for index in there], abs=1e-5
    )
    assert all(0 <= (segment.stability_score or 0) <= 1 for segment in segments)


@pytest.mark.parametrize(("ours", "theirs"), PROMPTS, ids=[str(ours) for ours, _ in PROMPTS])
def test_one_mask_is_the_best_of_an_ambiguous_point_and_else_upstreams_single_one(
    segmenter: Sam2Segmenter, picture: RgbImage, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    is_ambiguous = "box" not in ours and len(ours["points"]) == 1
    masks, scores = upstreams(segmenter, picture, is_ambiguous, **theirs)
    (segment,) = prompted(segmenter, picture, **ours)
    assert np.array_equal(segment.mask.full(), masks[scores.argmax()])


def test_a_click_on_a_drawn_shape_masks_that_shape(segmenter: Sam2Segmenter) -> None:
    scene = make_scene(7, width=640, height=480)
    thing = max(scene.objects, key=lambda each: int(each.mask.sum()))
    rows, columns = np.nonzero(thing.mask)
    middle = len(rows) // 2
    (segment,) = prompted(
        segmenter, scene.image, points=[[int(columns[middle]), int(rows[middle]), 1]]
    )
    mask = segment.mask.full()
    assert (mask & thing.mask).sum() / (mask | thing.mask).sum() > 0.7


def test_boxes_are_an_object_each_and_say_which(
    segmenter: Sam2Segmenter, picture: RgbImage
) -> None:
    boxes = [[60, 40, 260, 220], [200, 100, 400, 280]]
    segments = prompted(segmenter, picture, boxes=boxes)
    assert [segment.prompt for segment in segments] == [0, 1]
    for box, segment in zip(boxes, segments, strict=True):
        (alone,) = prompted(segmenter, picture, box=box)
        assert np.array_equal(alone.mask.full(), segment.mask.full())
        assert alone.prompt is None


def test_a_second_prompt_does_without_the_encoder_in_every_worker(
    picture: RgbImage, tmp_path: Path
) -> None:
    workers = [Sam2Segmenter("demo-sam2", WEIGHTS, "cpu") for _ in range(2)]
    for worker in workers:
        worker.keep_embeddings(EmbeddingFolder(tmp_path / "kept", 2**30, 60))
    runs = count_encodings(workers)
    first = prompted(workers[0], picture, points=[[210, 150, 1]])
    assert workers[0].notes["embedding_from"] == "encoder"
    again = prompted(workers[0], picture, points=[[210, 150, 1]])
    assert workers[0].notes["embedding_from"] == "memory"
    elsewhere = prompted(workers[1], picture, points=[[210, 150, 1]])
    assert workers[1].notes["embedding_from"] == "disk"
    assert runs == ["encoded"]
    for other in (again, elsewhere):
        assert np.array_equal(first[0].mask.full(), other[0].mask.full())
        assert first[0].predicted_iou == other[0].predicted_iou


def count_encodings(workers: list[Sam2Segmenter]) -> list[str]:
    runs: list[str] = []
    for worker in workers:
        assert worker._upstream
        worker._upstream.predictor.model.image_encoder.register_forward_hook(
            lambda *_: runs.append("encoded")
        )
    return runs


def test_automatic_masks_are_the_same_after_a_prompt(
    segmenter: Sam2Segmenter, picture: RgbImage
) -> None:
    def automatic() -> list[bytes]:
        (segments,) = segmenter.segment([picture], {"points_per_side": 6})
        return [segment.mask.full().tobytes() for segment in segments]

    before = automatic()
    prompted(segmenter, picture, box=[60, 40, 260, 220])
    assert automatic() == before
    assert "embedding_from" not in segmenter.notes


def test_a_prompt_is_asked_of_the_whole_of_a_large_picture(
    segmenter: Sam2Segmenter, picture: RgbImage
) -> None:
    tiled = TiledSegmenter(segmenter, 1000, 256)
    (whole,) = prompted(segmenter, picture, box=[60, 40, 260, 220])
    (same,) = prompted(tiled, picture, box=[60, 40, 260, 220])
    assert np.array_equal(whole.mask.full(), same.mask.full())
    assert "tiles" not in tiled.notes


def test_small_islands_go_when_asked(segmenter: Sam2Segmenter, picture: RgbImage) -> None:
    prompt = {"box": [60, 40, 260, 220], "min_mask_region_area": 1_000_000}
    assert all(segment.mask.area > 0 for segment in prompted(segmenter, picture, **prompt)), (
        "of several islands the largest stays"
    )


@pytest.mark.parametrize("size_wh", [(1, 1), (1, 300), (300, 2)])
def test_pictures_of_every_shape_take_prompts(
    segmenter: Sam2Segmenter, size_wh: tuple[int, int]
) -> None:
    width, height = size_wh
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    for segment in prompted(segmenter, picture, box=[0, 0, width, height]):
        assert segment.mask.resolution_wh == size_wh
