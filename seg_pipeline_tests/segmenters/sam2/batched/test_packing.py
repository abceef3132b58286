import logging

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from seg_pipeline.domain import Box
from seg_pipeline.segmenters.sam2.batched import packing
from seg_pipeline.segmenters.sam2.batched.packing import Download, Windows, pack_for, pack_plainly

pytestmark = pytest.mark.process

SIZE = 90, 140
BOXES = [Box(0, 0, 140, 90), Box(3, 7, 16, 1), Box(139, 2, 1, 80), Box(11, 5, 13, 9)]


def make_windows(boxes: list[Box] = BOXES) -> Windows:
    random = torch.Generator().manual_seed(1)
    return Windows(torch.randn(len(boxes), 32, 32, generator=random), boxes, SIZE, 0.25)


def test_what_is_unpacked_is_what_was_over_the_threshold() -> None:
    windows = make_windows()
    large = interpolate(windows.logits[None], SIZE, mode="bilinear", align_corners=False)[0]
    masks = Download(windows, pack_plainly).masks()
    for mask, box, whole in zip(masks, BOXES, large, strict=True):
        assert mask.dtype == np.bool_
        assert np.array_equal(mask, (whole[box.slices] > 0.25).numpy())


def test_a_pixel_takes_a_bit() -> None:
    windows = make_windows()
    packed = pack_plainly(windows)
    assert packed.dtype == torch.uint8
    assert len(packed) == windows.bytes == 90 * 18 + 2 + 80 + 9 * 2


def test_without_masks_nothing_is_packed() -> None:
    """A launch of nothing would be an error."""

    def never(_: Windows) -> Tensor:
        raise AssertionError

    assert Download(make_windows([]), never).masks() == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernel runs where there is CUDA")
def test_where_the_kernel_does_not_run_torch_packs_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert pack_for(torch.device("cpu")) is pack_plainly
    with caplog.at_level(logging.WARNING):
        assert pack_for(torch.device("cuda")) is pack_plainly
    assert len(caplog.records) == 1
    assert "without a kernel" in caplog.text


def test_a_kernel_that_is_wrong_is_found_out() -> None:
    def wrong(windows: Windows) -> Tensor:
        return pack_plainly(windows).roll(1)

    packing._check(pack_plainly, torch.device("cpu"))
    with pytest.raises(ValueError, match="bytes"):
        packing._check(wrong, torch.device("cpu"))
