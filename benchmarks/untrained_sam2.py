"""A `sam2.1_hiera_tiny` whose network is random, for timing where the published weights cannot be
had: the work of the real one on a picture, if its thresholds are fitted to the picture."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seg_pipeline.domain import RgbImage
from seg_pipeline.model_parameters import Sam2Parameters
from seg_pipeline.segmenters.sam2.generator import PointBatches
from seg_pipeline.segmenters.sam2.segmenter import Sam2Segmenter, build_model
from seg_pipeline.segmenters.sam2.upstream import UpstreamMasks

NAME = "sam2.1_hiera_tiny"
LOGITS_SPREAD = 8.0
SURE_SHARE = 0.6
"""Of all masks: so many does the network itself think enough of for them to be made."""

LEFT_SHARE = 1 / 30
"""Of all masks: so many are left at the end, a hundred for 1,024 points."""

FITTING_POINTS = 16
EVERYTHING = Sam2Parameters(pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1)
"""No suppression of near duplicates: an untrained network draws over the whole picture, and all its
boxes are alike."""


def untrained_sam2(folder: Path, picture: RgbImage) -> Path:
    """Its weights in a file, the same at every call: masks are as smooth as a trained one's, and
    have an inside and an outside in the picture."""
    path = folder / f"{NAME}-untrained.pt"
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        model = build_model(NAME).eval()
        _smooth(model.sam_mask_decoder)
        _spread(model, picture)
        torch.save({"model": model.state_dict()}, path)
    return path


def fitted_parameters(
    segmenter: Sam2Segmenter, picture: RgbImage, points_per_side: int
) -> Sam2Parameters:
    """Thresholds that make the picture as much work as it is for a trained network; the masks left
    are the stablest."""
    segments = segmenter.segment(
        [picture], {**vars(EVERYTHING), "points_per_side": FITTING_POINTS}
    )[0]
    masks = 3 * FITTING_POINTS**2
    iou = sorted((segment.predicted_iou or 0 for segment in segments), reverse=True)[
        round(masks * SURE_SHARE)
    ]
    stable = sorted(
        (s.stability_score or 0 for s in segments if (s.predicted_iou or 0) > iou), reverse=True
    )
    return replace(EVERYTHING, points_per_side=points_per_side, pred_iou_thresh=iou,
                   stability_score_thresh=stable[round(masks * LEFT_SHARE)])  # fmt: skip


def _smooth(decoder: Any) -> None:
    """Neighbouring pixels of a random network's masks have nothing to do with one another; a
    trained one's do."""
    for upscaling in (decoder.output_upscaling[0], decoder.output_upscaling[3]):
        upscaling.weight.copy_(
            upscaling.weight.mean((2, 3), keepdim=True).expand_as(upscaling.weight)
        )
    for fine in (decoder.conv_s0, decoder.conv_s1):
        fine.weight.zero_()


def _spread(model: Any, picture: RgbImage) -> None:
    """Gives masks an inside and an outside: a random network's logits are nearly the same all over
    the picture."""
    features, logits = _features_and_logits(model, picture)
    common = torch.nn.functional.normalize(features.flatten(1).mean(1), dim=0)
    for network in model.sam_mask_decoder.output_hypernetworks_mlps:
        last = network.layers[-1]
        last.weight.sub_(torch.outer(common, common @ last.weight))
        last.bias.sub_(common * (common @ last.bias))
    _, logits = _features_and_logits(model, picture)
    for network in model.sam_mask_decoder.output_hypernetworks_mlps:
        network.layers[-1].weight.mul_(LOGITS_SPREAD / logits.std())
        network.layers[-1].bias.mul_(LOGITS_SPREAD / logits.std())


def _features_and_logits(model: Any, picture: RgbImage) -> tuple[torch.Tensor, torch.Tensor]:
    """What the hypernetworks' products are of, `(c / 8, h, w)`, and the products, for a point in
    the middle."""
    seen: list[torch.Tensor] = []
    hook = model.sam_mask_decoder.output_upscaling[-1].register_forward_hook(
        lambda *each: seen.append(each[2])
    )
    predictor = UpstreamMasks(model, PointBatches()).predictor
    predictor.set_image(picture)
    _, _, logits = predictor.predict(
        np.array([[picture.shape[1] / 2, picture.shape[0] / 2]]), np.array([1])
    )
    hook.remove()
    return seen[0][0], torch.from_numpy(logits)
