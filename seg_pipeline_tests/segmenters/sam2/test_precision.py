"""Weights in half precision give what autocast gives, and everything else still runs."""

from typing import Any

import numpy as np
import pytest
import torch

from seg_pipeline.demo.scenes import make_scene
from seg_pipeline.domain import RgbImage, check_parameters
from seg_pipeline.imaging.masks import mask_iou
from seg_pipeline.segmenters.sam2.precision import computing_in, keep_encoder_in
from seg_pipeline.segmenters.sam2.segmenter import Sam2Segmenter
from seg_pipeline_tests.segmenters.sam2.batched.models import make_predictor
from seg_pipeline_tests.segmenters.sam2.upstreams_masks import FEW, WEIGHTS

pytestmark = pytest.mark.process

PICTURE = make_scene(1, width=320, height=240).image


def encoded(predictor: Any, picture: RgbImage) -> list[torch.Tensor]:
    """What the encoder makes of the picture in half precision."""
    with torch.inference_mode(), computing_in(torch.bfloat16, "cpu"):
        predictor.set_image(picture)
    return [predictor._features["image_embed"], *predictor._features["high_res_feats"]]


def test_converted_weights_give_the_bits_that_autocast_gives() -> None:
    predictor = make_predictor()
    theirs = encoded(predictor, PICTURE)
    keep_encoder_in(torch.bfloat16, predictor.model)
    ours = encoded(predictor, PICTURE)
    assert [torch.equal(*pair) for pair in zip(ours, theirs, strict=True)] == 3 * [True]


def test_normalisations_and_the_decoder_stay_in_float32() -> None:
    model = make_predictor().model
    keep_encoder_in(torch.bfloat16, model)
    kinds = {
        type(module).__name__: module.weight.dtype
        for module in model.image_encoder.modules()
        if isinstance(getattr(module, "weight", None), torch.Tensor)
    }
    assert kinds["LayerNorm"] == torch.float32
    assert kinds["Linear"] == kinds["Conv2d"] == torch.bfloat16
    assert {each.dtype for each in model.sam_mask_decoder.parameters()} == {torch.float32}


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(
    "asked",
    [
        {"use_m2m": True, "pred_iou_thresh": 0.85},
        {"points": [[150, 120]]},
        {"boxes": [[90, 60, 230, 190]]},
    ],
)
def test_refined_and_prompted_masks_are_nearly_those_of_float32(
    monkeypatch: pytest.MonkeyPatch, batched: bool, asked: dict[str, Any]
) -> None:
    """They run on the same weights, by upstream's own code."""
    monkeypatch.setattr("seg_pipeline.segmenters.sam2.segmenter.has_bf16", lambda _: True)
    half = Sam2Segmenter("demo-sam2", WEIGHTS, "cpu", FEW, "turbo", batched)
    whole = Sam2Segmenter("demo-sam2", WEIGHTS, "cpu", FEW)
    parameters = check_parameters("demo-sam2", asked)
    ours, theirs = (each.segment([PICTURE], parameters)[0] for each in (half, whole))
    assert half.notes["precision"] == "bf16"
    assert len(ours) == len(theirs) > 0
    ious = [mask_iou(*(s.mask for s in pair)) for pair in zip(ours, theirs, strict=True)]
    assert np.mean(ious) > 0.9
