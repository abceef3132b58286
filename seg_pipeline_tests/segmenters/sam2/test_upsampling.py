import pytest
import torch
from torch.nn.functional import interpolate

from seg_pipeline.domain import Box
from seg_pipeline.segmenters.sam2.upsampling import Upsampling

SIZES_HW = [(150, 200), (300, 64), (64, 64), (40, 30), (257, 65), (1, 7), (90, 1)]
THRESHOLDS = (-1.0, 0.0, 1.0)


def make_logits(kind: str) -> torch.Tensor:
    """Seven small masks: blobs as a network draws them, or noise, in which no cell is like another;
    the last empty."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(7, 64, 64, generator=generator)
    if kind == "blobs":
        coarse = torch.randn(7, 1, 6, 6, generator=generator) * 6 - 2
        logits = interpolate(coarse, (64, 64), mode="bicubic")[:, 0]
    logits[-1] = -3
    return logits


def enlarged(logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Upstream's way."""
    return interpolate(logits[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]


@pytest.mark.parametrize("most_mixed", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("kind", ["blobs", "noise"])
@pytest.mark.parametrize("size_hw", SIZES_HW)
def test_counts_and_boxes_are_those_of_the_enlarged_masks(
    size_hw: tuple[int, int], kind: str, most_mixed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether some pixels of a mask are worked out, all of them, or some of one and all of the
    next."""
    from sam2.utils.amg import batched_mask_to_box

    monkeypatch.setattr("seg_pipeline.segmenters.sam2.upsampling.MOST_MIXED", most_mixed)
    logits = make_logits(kind)
    full = enlarged(logits, *size_hw)
    measures = Upsampling(64, *size_hw).measure(logits, THRESHOLDS)
    expected = torch.stack([(full > threshold).sum((1, 2)) for threshold in THRESHOLDS], 1)
    assert measures.counts.tolist() == expected.tolist()
    assert measures.boxes.tolist() == batched_mask_to_box(full > 0).tolist()


@pytest.mark.parametrize("kind", ["blobs", "noise"])
@pytest.mark.parametrize("size_hw", SIZES_HW)
def test_no_mask_is_stabler_than_its_cells_allow(size_hw: tuple[int, int], kind: str) -> None:
    logits = make_logits(kind)
    full = enlarged(logits, *size_hw)
    stability = (full > 1).sum((1, 2)) / (full > -1).sum((1, 2))
    most = Upsampling(64, *size_hw).most_stable(logits, -1.0, 1.0)
    assert not (stability > most).any()
    if kind == "blobs" and min(size_hw) >= 64:
        assert (most[:-1] < stability[:-1] + 0.25).all()


def test_working_in_small_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    upsampling, logits = Upsampling(64, 150, 200), make_logits("blobs")
    before = upsampling.measure(logits, THRESHOLDS)
    monkeypatch.setattr("seg_pipeline.segmenters.sam2.upsampling.PIXELS_AT_ONCE", 1000)
    after = upsampling.measure(logits, THRESHOLDS)
    assert (before.counts == after.counts).all()
    assert (before.boxes == after.boxes).all()


@pytest.mark.parametrize("size_hw", SIZES_HW)
def test_a_mask_is_enlarged_inside_its_box_as_it_would_be_in_full(size_hw: tuple[int, int]) -> None:
    logits, upsampling = make_logits("blobs")[:-1], Upsampling(64, *size_hw)
    full = enlarged(logits, *size_hw) > 0
    for mask, small, (x0, y0, x1, y1) in zip(
        full, logits, upsampling.measure(logits, THRESHOLDS).boxes, strict=True
    ):
        box = Box(int(x0), int(y0), int(x1 - x0) + 1, int(y1 - y0) + 1)
        rows, columns = upsampling.window(box)
        bits = upsampling.mask(small[rows, columns], (rows.start, columns.start), box, 0.0)
        assert (bits == mask[box.slices].numpy()).all()
        assert bits.sum() == mask.sum()
