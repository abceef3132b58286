"""What the bundled weights promise, measured on scenes they never saw, through the door the product
uses."""

from pathlib import Path

import pytest

import seg_pipeline.demo
from seg_pipeline.demo.scenes import Scene, make_scene
from seg_pipeline.demo.scoring import Score, match_masks, score_scene
from seg_pipeline.domain import Segment
from seg_pipeline.segmenters.sam2.segmenter import Sam2Segmenter

pytestmark = pytest.mark.process

DEMO = Path(seg_pipeline.demo.__file__).parent
WEIGHTS = DEMO / "weights" / "demo-sam2.pt"

Answer = tuple[Scene, list[Segment]]


@pytest.fixture(scope="module")
def segmenter() -> Sam2Segmenter:
    return Sam2Segmenter("demo-sam2", WEIGHTS, device="cpu")


@pytest.fixture(scope="module")
def answers(segmenter: Sam2Segmenter) -> list[Answer]:
    """Thirty fresh scenes with what the model makes of each; training began at seed 2,000,000."""
    scenes = [make_scene(seed) for seed in range(30)]
    return [(scene, segmenter.segment([scene.image])[0]) for scene in scenes]


def score(scene: Scene, segments: list[Segment]) -> Score:
    return score_scene(
        [s.mask.full() for s in segments], [o.mask for o in scene.objects], iou_threshold=0.75
    )


def total_of(answers: list[Answer]) -> Score:
    total = Score(0, 0, 0)
    for answer in answers:
        total = total.plus(score(*answer))
    return total


def test_most_objects_are_found_and_one_mask_in_ten_is_false_at_most(answers: list[Answer]) -> None:
    """The demo model has to be good enough that a wrong answer points at the pipeline, not at the
    model."""
    total = total_of(answers)
    assert total.found_share >= 0.85, total
    assert total.false_share <= 0.10, total


def test_the_predicted_iou_tells_good_masks_from_bad_ones(answers: list[Answer]) -> None:
    """It is what the filters go by, and a number that clients get."""
    errors = []
    for scene, segments in answers:
        pairs = match_masks([s.mask.full() for s in segments], [o.mask for o in scene.objects])
        errors += [abs(iou - (segments[ours].predicted_iou or 0.0)) for ours, _, iou in pairs]
    assert sum(errors) / len(errors) < 0.10


@pytest.mark.parametrize(("width", "height"), [(640, 360), (300, 400)])
def test_pictures_of_other_shapes_and_sizes_do_as_well(
    segmenter: Sam2Segmenter, width: int, height: int
) -> None:
    scenes = [make_scene(seed, width=width, height=height) for seed in range(200, 206)]
    total = total_of([(scene, segmenter.segment([scene.image])[0]) for scene in scenes])
    assert total.found_share >= 0.80, total
    assert total.false_share <= 0.15, total
