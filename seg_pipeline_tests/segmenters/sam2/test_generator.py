from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from seg_pipeline.errors import ModelOutOfMemory
from seg_pipeline.imaging.masks import mask_iou
from seg_pipeline.model_parameters import Sam2Parameters
from seg_pipeline.segmenters.devices import has_bf16
from seg_pipeline.segmenters.sam2.decoder import FastMaskDecoder
from seg_pipeline.segmenters.sam2.generator import PointBatches
from seg_pipeline.segmenters.sam2.segmenter import Sam2Segmenter
from seg_pipeline_tests.segmenters.sam2.upstreams_masks import (
    FEW,
    PARAMETERS,
    WEIGHTS,
    assert_same,
    make_picture,
)

pytestmark = pytest.mark.process

UNEVEN = {"uneven batches": replace(FEW, points_per_batch=13)}


@pytest.fixture(scope="module")
def exact() -> Sam2Segmenter:
    return make_segmenter("exact")


@pytest.fixture(scope="module")
def upstream() -> Sam2Segmenter:
    return make_segmenter("upstream")


def make_segmenter(mode: Any, parameters: Sam2Parameters = FEW) -> Sam2Segmenter:
    return Sam2Segmenter("demo-sam2", WEIGHTS, "cpu", parameters, mode)


@pytest.mark.parametrize(
    "parameters", [*PARAMETERS.values(), *UNEVEN.values()], ids=[*PARAMETERS, *UNEVEN]
)
def test_masks_are_those_of_upstream(
    exact: Sam2Segmenter, upstream: Sam2Segmenter, parameters: Sam2Parameters
) -> None:
    asked = parameters.__dict__
    picture = make_picture()
    assert_same(exact.segment([picture], asked)[0], upstream.segment([picture], asked)[0])


@pytest.mark.parametrize("size_wh", [(97, 161), (256, 256), (400, 150)])
def test_pictures_of_all_shapes_get_upstreams_masks(
    exact: Sam2Segmenter, upstream: Sam2Segmenter, size_wh: tuple[int, int]
) -> None:
    picture = make_picture(7, *size_wh)
    asked = {"pred_iou_thresh": 0.5}
    assert_same(exact.segment([picture], asked)[0], upstream.segment([picture], asked)[0])


def test_turbo_finds_nearly_the_same(upstream: Sam2Segmenter) -> None:
    turbo = make_segmenter("turbo")
    assert turbo.notes["inference_mode"] == "turbo"
    assert turbo.notes["precision"] == ("bf16" if has_bf16() else "fp32")
    for seed in (1, 2):
        picture = make_picture(seed)
        ours, theirs = turbo.segment([picture])[0], upstream.segment([picture])[0]
        assert len(ours) == len(theirs)
        assert (
            np.mean([mask_iou(*(s.mask for s in pair)) for pair in zip(ours, theirs, strict=True)])
            > 0.99
        )


one_lane = pytest.mark.parametrize("torch_threads", [1], indirect=True)


def limit_memory(monkeypatch: pytest.MonkeyPatch, most: int, seen: list[int]) -> None:
    """Lets the decoder run out of memory with more points than `most`."""
    attend: Callable[..., Any] = FastMaskDecoder.attend

    def attend_or_fail(
        self: FastMaskDecoder, cache: Any, coordinates: torch.Tensor, multimask: bool
    ) -> Any:
        seen.append(len(coordinates))
        if len(coordinates) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return attend(self, cache, coordinates, multimask)

    monkeypatch.setattr(FastMaskDecoder, "attend", attend_or_fail)


@one_lane
@pytest.mark.usefixtures("torch_threads")
def test_when_memory_runs_out_batches_are_halved_and_the_masks_are_the_same(
    upstream: Sam2Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A smaller card takes longer; it does not fail."""
    segmenter, picture = make_segmenter("exact"), make_picture()
    assert segmenter.notes == {"inference_mode": "exact", "points_per_batch": 64}
    seen: list[int] = []
    limit_memory(monkeypatch, 20, seen)
    assert_same(segmenter.segment([picture])[0], upstream.segment([picture])[0])
    assert seen == [64, 32, 16, 16, 16, 16]
    assert segmenter.notes == {
        "inference_mode": "exact",
        "points_per_batch": 16,
        "halved_after_out_of_memory": 2,
    }


@pytest.mark.usefixtures("torch_threads")
def test_lanes_run_out_of_memory_each_for_itself(
    upstream: Sam2Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter, picture, seen = make_segmenter("exact"), make_picture(), list[int]()
    limit_memory(monkeypatch, 3, seen)
    assert_same(segmenter.segment([picture])[0], upstream.segment([picture])[0])
    assert sum(count for count in seen if count <= 3) == 64
    assert segmenter.notes["points_per_batch"] in (1, 2, 3)


@one_lane
@pytest.mark.usefixtures("torch_threads")
def test_the_next_picture_begins_with_the_smaller_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter, seen = make_segmenter("exact"), list[int]()
    limit_memory(monkeypatch, 32, seen)
    segmenter.segment([make_picture(1)])
    seen.clear()
    segmenter.segment([make_picture(2)], {"points_per_batch": 48})
    assert seen == [32, 32]


def test_memory_that_does_not_suffice_for_one_point_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit_memory(monkeypatch, 0, [])
    with pytest.raises(ModelOutOfMemory, match="demo-sam2"):
        make_segmenter("exact").segment([make_picture()])


def test_upstreams_batches_are_halved_too(upstream: Sam2Segmenter) -> None:
    """It does what is rarely asked for, such as second thoughts."""
    segmenter, picture = make_segmenter("upstream"), make_picture()
    assert segmenter._upstream is not None
    encoder = segmenter._upstream.predictor.model.sam_prompt_encoder

    def fail(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        if len(inputs["points"][0]) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    encoder.register_forward_pre_hook(fail, with_kwargs=True)
    assert_same(segmenter.segment([picture])[0], upstream.segment([picture])[0])
    assert segmenter.notes["points_per_batch"] == 16


def test_other_failures_do_not_make_batches_smaller() -> None:
    batches = PointBatches()
    with pytest.raises(RuntimeError, match="no kernel"):
        batches.halve_or_raise(64, RuntimeError("no kernel"))
    assert batches.size(64) == 64
