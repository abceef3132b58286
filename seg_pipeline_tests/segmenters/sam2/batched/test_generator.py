import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from seg_pipeline.imaging.masks import mask_iou
from seg_pipeline.model_parameters import Sam2Parameters
from seg_pipeline.segmenters.sam2.batched import generator, preprocessing, steps
from seg_pipeline.segmenters.sam2.batched.generator import BatchedMasks, Frame
from seg_pipeline.segmenters.sam2.batched.measures import measure_plainly
from seg_pipeline.segmenters.sam2.batched.network import BatchedNetwork
from seg_pipeline.segmenters.sam2.batched.packing import pack_plainly
from seg_pipeline.segmenters.sam2.batched.steps import tensors
from seg_pipeline.segmenters.sam2.generator import PointBatches
from seg_pipeline.segmenters.sam2.segmenter import Sam2Segmenter
from seg_pipeline_tests.segmenters.sam2.batched.models import (
    make_predictor,
    make_upstream,
    on_no_gpu,
)
from seg_pipeline_tests.segmenters.sam2.upstreams_masks import (
    FEW,
    PARAMETERS,
    WEIGHTS,
    assert_same,
    make_picture,
)

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def batched() -> Sam2Segmenter:
    return make_batched()


@pytest.fixture(scope="module")
def upstream() -> Sam2Segmenter:
    return make_upstream()


def make_batched(mode: Any = "exact", points: int = 24) -> Sam2Segmenter:
    """The demo model in a GPU's shape on the CPU; 64 points are two batches and a part of one."""
    segmenter = Sam2Segmenter("demo-sam2", WEIGHTS, "cpu", FEW, mode, batched=True)
    assert isinstance(segmenter._ours, BatchedMasks)
    segmenter._ours.points = points
    return segmenter


@pytest.mark.parametrize("parameters", PARAMETERS.values(), ids=PARAMETERS)
def test_masks_are_those_of_upstream(
    batched: Sam2Segmenter, upstream: Sam2Segmenter, parameters: Sam2Parameters
) -> None:
    asked = parameters.__dict__
    picture = make_picture()
    assert_same(batched.segment([picture], asked)[0], upstream.segment([picture], asked)[0])


@pytest.mark.parametrize("size_wh", [(97, 161), (256, 256), (400, 150)])
def test_pictures_of_all_shapes_get_upstreams_masks(
    batched: Sam2Segmenter, upstream: Sam2Segmenter, size_wh: tuple[int, int]
) -> None:
    picture = make_picture(7, *size_wh)
    asked = {"pred_iou_thresh": 0.5}
    assert_same(batched.segment([picture], asked)[0], upstream.segment([picture], asked)[0])


@pytest.mark.parametrize("size_wh", [(1, 1), (1, 300), (300, 2)])
def test_pictures_of_a_few_pixels_are_no_failure(
    batched: Sam2Segmenter, size_wh: tuple[int, int]
) -> None:
    width, height = size_wh
    picture = np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)
    asked = {"pred_iou_thresh": 0, "stability_score_thresh": 0, "crop_n_layers": 1}
    (segments,) = batched.segment([picture], asked)
    assert {segment.mask.resolution_wh for segment in segments} <= {size_wh}


def test_turbo_finds_nearly_the_same(
    upstream: Sam2Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In half precision, as on CUDA, whatever this CPU has."""
    monkeypatch.setattr("seg_pipeline.segmenters.sam2.segmenter.has_bf16", lambda _: True)
    turbo = make_batched("turbo")
    assert turbo.notes["precision"] == "bf16"
    assert turbo.notes["masks_sampled"] is False
    ours, theirs = (each.segment([make_picture(1)])[0] for each in (turbo, upstream))
    assert len(ours) == len(theirs)
    ious = [mask_iou(*(s.mask for s in pair)) for pair in zip(ours, theirs, strict=True)]
    assert np.mean(ious) > 0.99


def test_a_segmenter_on_a_cpu_is_not_batched() -> None:
    """There, many small steps that stay in the cache are quicker."""
    segmenter = Sam2Segmenter("demo-sam2", WEIGHTS, "cpu", FEW)
    assert not isinstance(segmenter._ours, BatchedMasks)
    segmenter.quicken()
    segmenter.settle()


def test_nothing_is_found_where_all_masks_are_dropped(batched: Sam2Segmenter) -> None:
    assert batched.segment([make_picture()], {"pred_iou_thresh": 1}) == [[]]
    crops = {"stability_score_thresh": 1, "crop_n_layers": 1, "stability_score_offset": 32}
    assert batched.segment([make_picture()], crops) == [[]]


def test_masks_that_do_not_fit_at_once_are_thinned_out_in_between(
    batched: Sam2Segmenter, upstream: Sam2Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More points than usual take no more memory."""
    monkeypatch.setattr(batched._ours, "_logit_bytes", 1)
    thinned = []
    plain = generator.Candidates.thinned

    def noted(candidates: generator.Candidates) -> generator.Candidates:
        thinned.append(len(candidates.valid))
        return plain(candidates)

    monkeypatch.setattr(generator.Candidates, "thinned", noted)
    picture = make_picture()
    assert_same(batched.segment([picture])[0], upstream.segment([picture])[0])
    assert thinned == [72, 72, 48]


def test_when_memory_runs_out_batches_are_halved_and_the_masks_are_the_same(
    upstream: Sam2Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter, picture = make_batched(), make_picture()
    seen: list[int] = []
    decode = BatchedNetwork._decode

    def decode_or_fail(
        self: BatchedNetwork, cache: Any, coordinates: torch.Tensor, multimask: bool
    ) -> Any:
        seen.append(len(coordinates))
        if len(coordinates) > 12:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return decode(self, cache, coordinates, multimask)

    monkeypatch.setattr(BatchedNetwork, "_decode", decode_or_fail)
    assert_same(segmenter.segment([picture])[0], upstream.segment([picture])[0])
    assert seen == [24, 24, *[12] * 6]
    assert segmenter.notes["points_per_batch"] == 12
    assert segmenter.notes["halved_after_out_of_memory"] == 1


def test_when_memory_runs_out_fewer_masks_are_held_before_batches_are_halved(
    upstream: Sam2Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of another size has no graph. The masks of all points take most of the memory."""
    segmenter, picture = make_batched(), make_picture()
    held: list[int] = []
    all_masks = BatchedMasks._all_masks

    def all_masks_or_fail(self: BatchedMasks, cache: Any, points: torch.Tensor, *rest: Any) -> Any:
        held.append(len(points))
        if len(points) > 24:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return all_masks(self, cache, points, *rest)

    monkeypatch.setattr(BatchedMasks, "_all_masks", all_masks_or_fail)
    assert_same(segmenter.segment([picture])[0], upstream.segment([picture])[0])
    assert held == [64, 24, 24, 16]
    assert segmenter.notes["points_per_batch"] == 24
    assert "halved_after_out_of_memory" not in segmenter.notes
    segmenter.segment([picture])
    assert held[4:] == [24, 24, 16]


def test_of_more_masks_than_fit_into_memory_the_surest_are_kept(
    batched: Sam2Segmenter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = {"pred_iou_thresh": 0, "stability_score_thresh": 0, "box_nms_thresh": 1}
    every = batched.segment([make_picture()], asked)[0]
    monkeypatch.setattr(generator, "MASK_BYTES", 2 * 320 * 240)
    with caplog.at_level(logging.WARNING):
        kept = batched.segment([make_picture()], asked)[0]
    assert 0 < len(kept) < len(every)
    assert "masks: more would not fit into memory" in caplog.text


def test_the_notes_say_how_it_ran(batched: Sam2Segmenter) -> None:
    batched.segment([make_picture()])
    assert batched.notes["points_per_batch"] == 24
    assert batched.notes["forms"] == "encoder: plain, decoder: plain"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_it_finds_the_same(
    upstream: Sam2Segmenter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The decoder, which is ours. `test_network` has the compiler read both.

    On a GPU it is captured as well, which takes one. The C++ is not optimised: that takes longer
    than all that runs here.
    """
    monkeypatch.setenv("TORCHINDUCTOR_DEBUG_COMPILE", "1")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    masks = BatchedMasks(make_predictor(), PointBatches(), points=2)
    monkeypatch.setattr(masks, "_chain", partial(quicken_decoder, masks))
    segmenter = make_batched()
    segmenter._ours = masks
    segmenter.quicken()
    segmenter.settle()
    assert masks.forms == "encoder: plain, decoder: compiled form"
    picture = make_picture()
    assert_same(segmenter.segment([picture])[0], upstream.segment([picture])[0])


def quicken_decoder(masks: BatchedMasks, quickening: steps.Quickening) -> None:
    pixels, coordinates = masks._network.example()
    quickening.quicken(masks._decode, masks._network.encode(pixels), coordinates)


def recorded(
    function: Callable[..., Any], example: tuple[Any, ...], place: steps.Place
) -> tuple[Callable[[], object], Any]:
    """Stands in for a CUDA graph: each replay writes into the memory of the results before."""
    results = function(*example)

    def replay() -> None:
        for held, new in zip(tensors(results), tensors(function(*example)), strict=True):
            held.copy_(new)

    for each in tensors(results):
        each.fill_(torch.nan)  # a capture computes nothing
    return replay, results


def test_replayed_graphs_overwrite_no_result_that_is_still_needed(
    upstream: Sam2Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results of batches, crops and pictures all have the same memory then."""
    monkeypatch.setattr(steps, "captured", recorded)
    monkeypatch.setattr(steps, "on", lambda _: nullcontext())
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    masks, lock = BatchedMasks(make_predictor(), PointBatches(), points=24), threading.Lock()
    place = steps.Place(torch.device("cuda"), lock)
    steps.Quickening("demo-sam2", place, masks._chain).settle()
    assert masks.forms == "encoder: compiled graph, decoder: compiled graph"
    segmenter = make_batched()
    segmenter._ours = masks
    for asked in (FEW, replace(FEW, crop_n_layers=1), PARAMETERS["one mask a point"]):
        for picture in (make_picture(4), make_picture(7)):
            ours, theirs = (
                each.segment([picture], asked.__dict__)[0] for each in (segmenter, upstream)
            )
            assert_same(ours, theirs)


WAITS = (
    "aten.item",
    "aten._local_scalar_dense",
    "aten.nonzero",
    "aten.masked_select",
    "aten.equal",
)


class Waits(TorchDispatchMode):
    """Notes each operator that waits for the device, by name, and non-maximum suppression."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = str(function)
        indices = args[1] if name.startswith(("aten.index.", "aten.index_put")) else []
        by_mask = any(each is not None and each.dtype == torch.bool for each in indices)
        if name.startswith(WAITS) or by_mask or "nms" in name:
            self.seen.append(name)
        return function(*args, **kwargs or {})


@pytest.fixture
def waits() -> Iterator[Waits]:
    with Waits() as seen:
        yield seen


def test_nothing_waits_for_the_device_before_the_suppression_of_duplicates(
    batched: Sam2Segmenter, waits: Waits
) -> None:
    """Each wait would leave the device without work."""
    batched.segment([make_picture()])
    assert waits.seen[0].startswith("torchvision.nms")


@pytest.mark.filterwarnings("ignore:.create_unbacked_symint:FutureWarning")  # torchvision's
@pytest.mark.parametrize("points_at_once", [24, 64])
def test_on_a_gpu_nothing_needs_a_value_before_the_suppression_of_duplicates(
    monkeypatch: pytest.MonkeyPatch, points_at_once: int
) -> None:
    """On a GPU that is not there nothing has a value. The first that asks for one, or for a tensor
    of the host, fails."""
    monkeypatch.setattr(generator, "on", lambda _: nullcontext())
    monkeypatch.setattr(generator, "measure_for", lambda _: measure_plainly)
    monkeypatch.setattr(generator, "pack_for", lambda _: pack_plainly)
    monkeypatch.setattr(generator, "_logit_bytes", lambda _: generator.LOGIT_BYTES)
    monkeypatch.setattr(preprocessing, "upload", uploaded_to_no_gpu)
    frame, predictor = Frame((0, 0, 320, 240), (320, 240), FEW), make_predictor()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        masks = BatchedMasks(on_no_gpu(predictor), PointBatches(), points=points_at_once)
        pixels = preprocessing.network_input(make_picture(), masks._network.side, masks._device)
        coordinates = torch.empty(64, 2, device="cuda")
        (candidates,) = masks._groups(masks._encode(pixels), coordinates, frame)
        assert candidates.boxes.device.type == "cuda"
        with pytest.raises(DynamicOutputShapeException, match="nms"):
            generator._survivors(candidates, frame)


def uploaded_to_no_gpu(array: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.empty(array.shape, dtype=torch.uint8, device=device)


@pytest.mark.parametrize("xyxy", [(0, 0, 300, 200), (0, 0, 160, 110), (140, 90, 300, 200)])
def test_boxes_near_a_crops_edge_are_upstreams(xyxy: tuple[int, int, int, int]) -> None:
    from sam2.utils.amg import is_box_near_crop_edge

    random, size = np.random.default_rng(0), (xyxy[2] - xyxy[0], xyxy[3] - xyxy[1])
    corners = random.integers(0, size, (200, 2)), random.integers(0, size, (200, 2))
    boxes = torch.from_numpy(np.hstack([np.minimum(*corners), np.maximum(*corners)]))
    away = Frame(xyxy, (300, 200), FEW).away_from_edges(boxes)
    near = is_box_near_crop_edge(boxes, list(xyxy), [0, 0, 300, 200])
    assert away.tolist() == (~near).tolist()
    assert away.all() == (xyxy == (0, 0, 300, 200))
