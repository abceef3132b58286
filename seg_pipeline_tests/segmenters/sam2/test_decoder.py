from collections.abc import Callable
from typing import Any

import pytest
import torch

from seg_pipeline.segmenters.sam2.decoder import FastMaskDecoder
from seg_pipeline.segmenters.sam2.segmenter import build_model

pytestmark = pytest.mark.process

POINTS = 19

Answer = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def model() -> Any:
    """The small SAM-2 with weights that leave nothing at zero or one, so that each of them
    shows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model("demo-sam2").eval().requires_grad_(False)
        for weights in [
            *model.sam_mask_decoder.parameters(),
            *model.sam_prompt_encoder.parameters(),
        ]:
            weights.add_(torch.randn_like(weights) * 0.1)
    return model


@pytest.fixture(scope="module")
def picture(model: Any) -> list[torch.Tensor]:
    """Random features, as the encoder would give them."""
    side, channels = model.image_size // 16, model.sam_mask_decoder.transformer_dim
    generator = torch.Generator().manual_seed(1)
    shapes = [(channels, side), (channels // 4, 2 * side), (channels // 8, 4 * side)]
    return [torch.randn(1, depth, size, size, generator=generator) for depth, size in shapes]


@pytest.fixture(scope="module")
def points(model: Any) -> torch.Tensor:
    return torch.rand(POINTS, 2, generator=torch.Generator().manual_seed(2)) * model.image_size


def upstream(
    model: Any, picture: list[torch.Tensor], points: torch.Tensor, multimask: bool
) -> Answer:
    labels = torch.ones(len(points), 1, dtype=torch.int)
    sparse, dense = model.sam_prompt_encoder(
        points=(points[:, None], labels), boxes=None, masks=None
    )
    masks, iou, _, _ = model.sam_mask_decoder(
        image_embeddings=picture[0],
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
        repeat_image=True,
        high_res_features=[picture[2], picture[1]],
    )
    return masks, iou


def ours(
    decoder: FastMaskDecoder, picture: list[torch.Tensor], points: torch.Tensor, multimask: bool
) -> Answer:
    with torch.inference_mode():
        cache = decoder.cache(*picture)
        attended = decoder.attend(cache, points, multimask)
        iou = decoder.predicted_iou(attended)
        everything = torch.ones_like(iou, dtype=torch.bool)
        return torch.stack(decoder.masks(cache, attended, everything)), iou


@pytest.mark.parametrize("multimask", [True, False])
def test_masks_and_scores_are_those_of_upstreams_decoder(
    model: Any, picture: list[torch.Tensor], points: torch.Tensor, multimask: bool
) -> None:
    theirs, their_iou = upstream(model, picture, points, multimask)
    masks, iou = ours(FastMaskDecoder(model), picture, points, multimask)
    assert theirs.std() > 0.1
    torch.testing.assert_close(masks, theirs, atol=2e-5 * float(theirs.std()), rtol=1e-4)
    torch.testing.assert_close(iou, their_iou, atol=1e-6, rtol=1e-5)


def test_half_precision_stays_close_to_it(
    model: Any, picture: list[torch.Tensor], points: torch.Tensor
) -> None:
    theirs, their_iou = upstream(model, picture, points, multimask=True)
    masks, iou = ours(FastMaskDecoder(model, torch.bfloat16), picture, points, multimask=True)
    assert masks.dtype == torch.float32
    assert float((masks - theirs).abs().mean() / theirs.std()) < 0.02
    torch.testing.assert_close(iou, their_iou, atol=0.01, rtol=0)


@pytest.mark.parametrize("positions", [1, 700, 10**9])
def test_how_many_points_are_worked_on_at_once_changes_nothing(
    model: Any,
    picture: list[torch.Tensor],
    points: torch.Tensor,
    positions: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = ours(FastMaskDecoder(model), picture, points, multimask=True)[0]
    monkeypatch.setattr("seg_pipeline.segmenters.sam2.decoder.POSITIONS_AT_ONCE", positions)
    after = ours(FastMaskDecoder(model), picture, points, multimask=True)[0]
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


def test_only_the_masks_that_are_wanted_are_made(
    model: Any, picture: list[torch.Tensor], points: torch.Tensor
) -> None:
    theirs, _ = upstream(model, picture, points, multimask=True)
    wanted = torch.zeros(POINTS, 3, dtype=torch.bool)
    wanted[4, 1] = wanted[4, 2] = wanted[11, 0] = True
    decoder = FastMaskDecoder(model)
    with torch.inference_mode():
        cache = decoder.cache(*picture)
        made = decoder.masks(cache, decoder.attend(cache, points), wanted)
    assert [len(masks) for masks in made] == [2, 1]
    torch.testing.assert_close(torch.cat(made), theirs[wanted], atol=1e-4, rtol=1e-4)


CHANGES: dict[str, Callable[[Any], object]] = {
    "another depth": lambda decoder: decoder.transformer.layers.append(
        decoder.transformer.layers[0]
    ),
    "no fine features": lambda decoder: setattr(decoder, "use_high_res_features", False),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_models_that_are_built_otherwise_are_left_to_upstream(
    change: Callable[[Any], object],
) -> None:
    model = build_model("demo-sam2")
    assert FastMaskDecoder.fits(model)
    change(model.sam_mask_decoder)
    assert not FastMaskDecoder.fits(model)
