from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import torch

from benchmarks.gpu.card_not_here import fake_tensors
from seg_pipeline.demo.scenes import make_scene
from seg_pipeline.segmenters.sam2.batched.network import BatchedNetwork
from seg_pipeline.segmenters.sam2.batched.preprocessing import network_input
from seg_pipeline.segmenters.sam2.batched.steps import tensors
from seg_pipeline.segmenters.sam2.decoder import FastMaskDecoder
from seg_pipeline_tests.segmenters.sam2.batched.models import (
    make_predictor,
    on_no_gpu,
)

pytestmark = pytest.mark.process

PICTURE = make_scene(3, width=200, height=160).image


@pytest.fixture(scope="module")
def predictor() -> Any:
    return make_predictor()


@pytest.fixture(scope="module")
def network(predictor: Any) -> BatchedNetwork:
    return BatchedNetwork(predictor, torch.float32, points=10)


@pytest.fixture(autouse=True)
def _inference() -> Any:
    with torch.inference_mode():
        yield


def test_the_encoder_gives_what_upstreams_predictor_gives(
    predictor: Any, network: BatchedNetwork
) -> None:
    ours = network.encode(network_input(PICTURE, network.side, network.device))
    predictor.set_image(PICTURE)
    finest, fine = predictor._features["high_res_feats"]
    decoder = FastMaskDecoder(predictor.model)
    theirs = decoder.cache(predictor._features["image_embed"], fine, finest)
    for our, their in zip(tensors(ours), tensors(theirs), strict=True):
        torch.testing.assert_close(our, their, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("multimask", [True, False])
def test_all_masks_at_once_are_those_made_point_by_point(
    predictor: Any, network: BatchedNetwork, multimask: bool
) -> None:
    pixels, coordinates = network.example()
    cache, decoder = network.encode(pixels), FastMaskDecoder(predictor.model)
    attended = decoder.attend(cache, coordinates, multimask)
    predicted = decoder.predicted_iou(attended)
    theirs = torch.cat(decoder.masks(cache, attended, torch.ones_like(predicted).bool()))
    decode = network.decode if multimask else network.decode_single
    logits, scores = decode(cache, coordinates)
    torch.testing.assert_close(logits, theirs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores, predicted.flatten())
    assert logits.shape[1:] == (network.mask_side, network.mask_side)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiler_sees_encoder_and_decoder_whole(predictor: Any, dtype: torch.dtype) -> None:
    """Each break would be a step that nothing fuses.

    The backend replaces writes in place, as the default one does before it makes code.
    """
    network = BatchedNetwork(predictor, dtype, points=8)
    whole = partial(torch.compile, fullgraph=True, dynamic=False, backend="aot_eager")
    pixels, coordinates = network.example()
    cache = network.encode(pixels)
    for ours, theirs in (
        (whole(network.encode)(pixels), cache),
        (whole(network.decode)(cache, coordinates), as_compiled(network, cache, coordinates)),
    ):
        for our, their in zip(tensors(ours), tensors(theirs), strict=True):
            torch.testing.assert_close(our, their)


def test_the_order_of_compiled_sums_changes_nothing(network: BatchedNetwork) -> None:
    pixels, coordinates = network.example()
    cache = network.encode(pixels)
    ours, theirs = as_compiled(network, cache, coordinates), network.decode(cache, coordinates)
    torch.testing.assert_close(ours, theirs)


def as_compiled(network: BatchedNetwork, cache: Any, coordinates: torch.Tensor) -> Any:
    """What the decoder says where it sums as it does when it is compiled."""
    with patch.object(torch.compiler, "is_compiling", lambda: True):
        return network.decode(cache, coordinates)


def test_encoder_and_decoder_copy_nothing_between_host_and_device() -> None:
    """On a device that is not there: a tensor of the CPU among its tensors would be an error, and
    so would be a shape that depends on values."""
    predictor = make_predictor()
    with fake_tensors():
        elsewhere = on_no_gpu(predictor)
        for dtype in (torch.float32, torch.bfloat16):
            network = BatchedNetwork(elsewhere, dtype, points=8)
            pixels = torch.empty(1, 3, network.side, network.side, device="cuda")
            cache = network.encode(pixels)
            assert {each.device.type for each in tensors(cache)} == {"cuda"}
            logits, scores = network.decode(cache, torch.empty(8, 2, device="cuda"))
            assert (logits.device.type, scores.device.type) == ("cuda", "cuda")


def test_half_precision_finds_nearly_the_same_logits(predictor: Any) -> None:
    whole, half = (
        BatchedNetwork(predictor, dtype, points=8) for dtype in (torch.float32, torch.bfloat16)
    )
    pixels, coordinates = whole.example()
    theirs, _ = whole.decode(whole.encode(pixels), coordinates)
    ours, _ = half.decode(half.encode(pixels), coordinates)
    assert ours.dtype == torch.bfloat16
    assert float((ours.float() - theirs).norm() / theirs.norm()) < 0.1


def test_batches_are_smaller_in_full_precision(predictor: Any) -> None:
    """So that the memory is no more than upstream's."""
    assert BatchedNetwork(predictor, torch.float32).points == 64
    assert BatchedNetwork(predictor, torch.bfloat16).points == 256
