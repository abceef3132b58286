"""The demo model, as the batched modules get it."""

from typing import Any

from seg_pipeline.segmenters.sam2.segmenter import Sam2Segmenter
from seg_pipeline_tests.segmenters.sam2.upstreams_masks import FEW, WEIGHTS


def make_upstream() -> Sam2Segmenter:
    """Upstream's own generator."""
    return Sam2Segmenter("demo-sam2", WEIGHTS, "cpu", FEW, "upstream")


def make_predictor() -> Any:
    """Upstream's predictor of the demo model."""
    upstream = make_upstream()._upstream
    assert upstream is not None
    return upstream.predictor
