"""The GPU's masks against the host's, bit for bit, on random input."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_pipeline.domain import Mask, RgbImage
from seg_pipeline.errors import DeviceBroken
from seg_pipeline.segmenters.yolo import device_masks
from seg_pipeline.segmenters.yolo.device_masks import DeviceMasks, DevicePlan, Pack, torch_pack
from seg_pipeline.segmenters.yolo.letterbox import Letterbox
from seg_pipeline.segmenters.yolo.masks import host_masks
from seg_pipeline.segmenters.yolo.segmenter import YoloSegmenter

pytestmark = pytest.mark.process

Case = tuple[list[np.ndarray], list[torch.Tensor], torch.Tensor, list[Letterbox]]


def random_case(
    sizes_wh: Sequence[tuple[int, int]], counts: Sequence[int], seed: int = 0, size: int = 640
) -> Case:
    """Pictures that share a letterbox's shape, with detections that lie anywhere, or nowhere."""
    rng = np.random.default_rng(seed)
    letterboxes = [Letterbox.of(size_wh, size, 32) for size_wh in sizes_wh]
    width, height = letterboxes[0].outer_wh
    boxes = [
        letterbox.boxes_to_picture(
            np.sort(rng.uniform(-20, 1.1 * max(width, height), (count, 2, 2)), axis=1)
            .reshape(count, 4)
            .astype(np.float32)
        )
        for letterbox, count in zip(letterboxes, counts, strict=True)
    ]
    coefficients = [
        torch.from_numpy(rng.standard_normal((n, 32), dtype=np.float32)) for n in counts
    ]
    shape = (len(sizes_wh), 32, height // 4, width // 4)
    prototypes = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    return boxes, coefficients, prototypes, letterboxes


def assert_the_same(
    ours: Sequence[Sequence[Mask | None]], theirs: Sequence[Sequence[Mask | None]]
) -> int:
    """Returns how many masks there are."""
    assert [len(each) for each in ours] == [len(each) for each in theirs]
    masks = 0
    for mine, yours in zip(chain(*ours), chain(*theirs), strict=True):
        assert (mine is None) == (yours is None)
        if mine is not None and yours is not None:
            assert (mine.box, mine.resolution_wh) == (yours.box, yours.resolution_wh)
            assert np.array_equal(mine.bits, yours.bits)
            masks += 1
    return masks


@pytest.mark.parametrize(
    ("sizes_wh", "counts", "least"),
    [
        ([(1280, 720)], [51], 35),
        ([(640, 480), (320, 240), (1281, 961)], [9, 0, 5], 12),
        ([(333, 777)], [0], 0),
        ([(3000, 2)], [20], 1),
        ([(1, 1), (5, 5)], [4, 4], 0),
    ],
)
def test_a_batchs_masks_have_the_hosts_bits(
    sizes_wh: list[tuple[int, int]], counts: list[int], least: int
) -> None:
    case = random_case(sizes_wh, counts)
    assert assert_the_same(DeviceMasks("cpu")(*case), host_masks(*case)) >= least


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_pictures_of_any_size_have_the_hosts_bits(
    width: int, height: int, count: int, seed: int
) -> None:
    case = random_case([(width, height)], [count], seed, size=160)
    assert_the_same(DeviceMasks("cpu")(*case), host_masks(*case))


def test_masks_that_do_not_fit_together_come_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    case, packs = random_case([(640, 480)], [12]), []

    def counting(
        logits: torch.Tensor, plan: DevicePlan, packed: torch.Tensor, bounds: torch.Tensor
    ) -> None:
        packs.append(len(plan.fields))
        torch_pack(logits, plan, packed, bounds)

    monkeypatch.setattr(device_masks, "MOST_BLOCKS", 40)
    monkeypatch.setattr(device_masks, "BLOCKS_AT_ONCE", 7)
    assert_the_same(DeviceMasks("cpu", counting)(*case), host_masks(*case))
    assert len(packs) > 2
    assert sum(packs) == 12


def failing(error: Exception) -> Pack:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_where_the_kernel_fails_torch_does_it_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    case = random_case([(640, 480)], [5])
    masks = DeviceMasks("cpu", failing(RuntimeError("Failed to find C compiler.")))
    for _ in range(2):
        assert_the_same(masks(*case), host_masks(*case))
    assert masks.notes == {"masks": "torch: Triton failed: Failed to find C compiler."}
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), torch.OutOfMemoryError),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), DeviceBroken),
    ],
)
def test_no_memory_and_a_broken_gpu_are_not_the_kernels_fault(
    error: Exception, raised: type[Exception]
) -> None:
    masks = DeviceMasks("cpu", failing(error))
    with pytest.raises(raised):
        masks(*random_case([(640, 480)], [5]))
    assert masks.notes == {"masks": "triton"}


def test_a_segmenter_finds_the_same_by_them(untrained_weights: Path, noise: RgbImage) -> None:
    segmenter = YoloSegmenter("untrained-seg", untrained_weights, "cpu")
    pictures = [noise, noise[:, :100], np.zeros((40, 90, 3), np.uint8)]
    expected = segmenter.segment(pictures)
    segmenter._masks = DeviceMasks("cpu")
    found = segmenter.segment(pictures)
    for ours, theirs in zip(found, expected, strict=True):
        assert_the_same([[each.mask for each in ours]], [[each.mask for each in theirs]])
        assert [each.confidence for each in ours] == [each.confidence for each in theirs]
    assert sum(map(len, found)) > 10
