"""What both of SAM-2's generators are held to: upstream's masks, by the demo model."""

from dataclasses import replace

import pytest

from seg_pipeline.demo.scenes import make_scene
from seg_pipeline.domain import RgbImage, Segment
from seg_pipeline.imaging.masks import mask_iou
from seg_pipeline.model_parameters import Sam2Parameters
from seg_pipeline.segmenters.weights.locate import BUNDLED

WEIGHTS = BUNDLED / "demo-sam2.pt"

FEW = Sam2Parameters(points_per_side=8, stability_score_thresh=0.7, box_nms_thresh=0.2)

PARAMETERS = {
    "the demo's": FEW,
    "no filters": replace(
        FEW, points_per_side=4, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=0.9
    ),
    "another threshold": replace(
        FEW, mask_threshold=1.5, stability_score_offset=2.0, pred_iou_thresh=0.5
    ),
    "one mask a point": replace(FEW, multimask_output=False, pred_iou_thresh=0.6),
    "crops": replace(FEW, points_per_side=6, crop_n_layers=1, crop_nms_thresh=0.5),
    "coarser crops": replace(
        FEW, crop_n_layers=1, crop_n_points_downscale_factor=2, crop_overlap_ratio=0.5
    ),
    "no small regions": replace(FEW, min_mask_region_area=60),
    "second thoughts": replace(FEW, points_per_side=4, use_m2m=True),
}


def make_picture(seed: int = 4, width: int = 320, height: int = 240) -> RgbImage:
    return make_scene(seed, width=width, height=height).image


def assert_same(ours: list[Segment], theirs: list[Segment], least_iou: float = 0.9995) -> None:
    """The same masks in the same order, with the same scores."""
    assert len(ours) == len(theirs) > 0
    for our, their in zip(ours, theirs, strict=True):
        assert mask_iou(our.mask, their.mask) >= least_iou
        assert our.predicted_iou == pytest.approx(their.predicted_iou, abs=1e-5)
        assert our.stability_score == pytest.approx(their.stability_score, abs=1e-3, nan_ok=True)
