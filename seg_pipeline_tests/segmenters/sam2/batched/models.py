"""The demo model, as the batched modules get it."""

from typing import Any

from seg_pipeline.model_parameters import Sam2Parameters
from seg_pipeline.segmenters.sam2.segmenter import Sam2Segmenter
from seg_pipeline.segmenters.weights.locate import BUNDLED

WEIGHTS = BUNDLED / "demo-sam2.pt"
FEW = Sam2Parameters(points_per_side=8, stability_score_thresh=0.7, box_nms_thresh=0.2)


def make_upstream() -> Sam2Segmenter:
    """Upstream's own generator."""
    return Sam2Segmenter("demo-sam2", WEIGHTS, "cpu", FEW, "upstream")


def make_predictor() -> Any:
    """Upstream's predictor of the demo model."""
    upstream = make_upstream()._upstream
    assert upstream is not None
    return upstream.predictor
