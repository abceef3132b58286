"""What a job may set is what the models have, to the very ends of the ranges."""

from dataclasses import fields
from typing import Any

import pytest

from seg_pipeline.demo.scenes import make_scene
from seg_pipeline.domain import SAM2_PARAMETERS, Range, check_parameters
from seg_pipeline.model_parameters import Sam2Parameters
from seg_pipeline.segmenters.sam2.segmenter import Sam2Segmenter
from seg_pipeline.segmenters.weights.locate import BUNDLED

pytestmark = pytest.mark.process

WEIGHTS = BUNDLED / "demo-sam2.pt"
FEW_POINTS = {"points_per_side": 3, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.3}


@pytest.fixture(scope="module")
def segmenter() -> Sam2Segmenter:
    return Sam2Segmenter("demo-sam2", WEIGHTS, device="cpu")


def ends() -> list[dict[str, Any]]:
    """Each parameter at the ends of its range; the grid and its crops stay small, for the tests'
    time."""
    costly = {"points_per_side": (1, 5), "crop_n_layers": (0, 1)}
    return [
        {name: value}
        for name, limits in SAM2_PARAMETERS.items()
        for value in costly.get(
            name, (limits.least, limits.most) if isinstance(limits, Range) else (False, True)
        )
    ]


def test_a_job_may_set_what_sam2_has_and_nothing_else() -> None:
    assert set(SAM2_PARAMETERS) == {field.name for field in fields(Sam2Parameters)}


def test_the_usual_values_are_within_the_limits() -> None:
    usual = {field.name: field.default for field in fields(Sam2Parameters)}
    assert check_parameters("sam2.1_hiera_large", usual) == usual


@pytest.mark.parametrize("parameters", ends(), ids=str)
def test_sam2_runs_at_the_ends_of_every_range(
    segmenter: Sam2Segmenter, parameters: dict[str, Any]
) -> None:
    """What is let in must not fail within: the job would be tried again and again."""
    asked = check_parameters("demo-sam2", FEW_POINTS | parameters)
    (segments,) = segmenter.segment([make_scene(seed=3).image], asked)
    assert all(segment.mask.area for segment in segments)


def test_crops_within_crops_with_one_point_each_run(segmenter: Sam2Segmenter) -> None:
    thin = {
        "points_per_side": 4,
        "crop_n_layers": 2,
        "crop_n_points_downscale_factor": 2,
        "crop_overlap_ratio": 0,
    }
    (segments,) = segmenter.segment(
        [make_scene(seed=3).image], check_parameters("demo-sam2", FEW_POINTS | thin)
    )
    assert segments
