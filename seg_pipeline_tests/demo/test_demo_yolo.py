"""What the bundled weights promise, measured on scenes they never saw, through the door the product
uses."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import seg_pipeline.demo
from seg_pipeline.demo.scenes import Scene, SceneObject, make_scene
from seg_pipeline.demo.scoring import Score, hole_of, match_masks, score_scene
from seg_pipeline.domain import Segment
from seg_pipeline.segmenters.yolo.segmenter import YoloSegmenter

pytestmark = pytest.mark.process

DEMO = Path(seg_pipeline.demo.__file__).parent
WEIGHTS = DEMO / "weights" / "demo-yolo.pt"
SAMPLE = DEMO / "sample.jpg"
SAMPLE_SEED = 12_509

Answers = list[tuple[Scene, list[Segment]]]


@pytest.fixture(scope="module")
def segmenter() -> YoloSegmenter:
    return YoloSegmenter("demo-yolo", WEIGHTS, device="cpu")


@pytest.fixture(scope="module")
def answers(segmenter: YoloSegmenter) -> Answers:
    """A hundred fresh scenes with what the model makes of each; training began at seed
    1,000,000."""
    scenes = [make_scene(seed) for seed in range(100)]
    return [(scene, segmenter.segment([scene.image])[0]) for scene in scenes]


def full_masks(segments: Sequence[Segment]) -> list[np.ndarray]:
    return [segment.mask.full() for segment in segments]


def true_masks(scene: Scene) -> list[np.ndarray]:
    return [o.mask for o in scene.objects]


def matched(
    scene: Scene, segments: Sequence[Segment], iou_threshold: float = 0.75
) -> list[tuple[SceneObject, Segment]]:
    """The objects found, each with the segment that shows it."""
    pairs = match_masks(full_masks(segments), true_masks(scene))
    return [
        (scene.objects[theirs], segments[ours])
        for ours, theirs, iou in pairs
        if iou >= iou_threshold
    ]


def test_nine_objects_in_ten_are_found_and_one_segment_in_ten_is_false_at_most(
    answers: Answers,
) -> None:
    """The demo model has to be good enough that a wrong answer points at the pipeline, not at the
    model."""
    total = Score(0, 0, 0)
    for scene, segments in answers:
        total = total.plus(score_scene(full_masks(segments), true_masks(scene), iou_threshold=0.75))
    assert total.found_share >= 0.90, total
    assert total.false_share <= 0.10, total


def test_objects_that_are_found_have_their_right_label(answers: Answers) -> None:
    found = [pair for scene, segments in answers for pair in matched(scene, segments)]
    assert np.mean([segment.label == o.label for o, segment in found]) >= 0.90


def test_the_hole_of_a_ring_stays_empty(answers: Answers) -> None:
    """Polygons would fill it: the masks of the product are pixels, from the network to the file."""
    found = [pair for scene, segments in answers for pair in matched(scene, segments)]
    rings = [(hole_of(o.mask), segment.mask.full()) for o, segment in found if o.label == "ring"]
    whole = [(hole, mask) for hole, mask in rings if hole.any()]
    assert len(whole) >= 10
    assert np.mean([mask[hole].mean() < 0.25 for hole, mask in whole]) >= 0.90


@pytest.mark.parametrize(("width", "height"), [(640, 360), (300, 400), (960, 720)])
def test_pictures_of_other_shapes_and_sizes_do_as_well(
    segmenter: YoloSegmenter, width: int, height: int
) -> None:
    total = Score(0, 0, 0)
    for seed in range(200, 215):
        scene = make_scene(seed, width=width, height=height)
        (segments,) = segmenter.segment([scene.image])
        total = total.plus(score_scene(full_masks(segments), true_masks(scene)))
    assert total.found_share >= 0.85, total
    assert total.false_share <= 0.15, total


def test_every_object_of_the_sample_is_found_and_nothing_else(segmenter: YoloSegmenter) -> None:
    """The sample is the first picture that anybody sends through the service."""
    scene = make_scene(SAMPLE_SEED, width=960, height=720, difficulty=1.0)
    (segments,) = segmenter.segment([np.asarray(Image.open(SAMPLE))])
    assert score_scene(full_masks(segments), true_masks(scene)) == Score(len(scene.objects), 0, 0)


def test_the_sample_is_the_scene_of_its_seed() -> None:
    scene = make_scene(SAMPLE_SEED, width=960, height=720, difficulty=1.0)
    with Image.open(SAMPLE) as sample:
        assert np.abs(np.asarray(sample).astype(int) - scene.image).mean() < 6.0
