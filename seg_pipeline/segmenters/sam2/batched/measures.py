"""What masks measure at the picture's size, computed from their small logits.

A Triton kernel does it without ever writing a large mask. `measure_plainly` gives the same in torch
alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from seg_pipeline.segmenters.devices import kernel_or_plain

PIXELS_AT_ONCE = 2**24
"""Pixels that are enlarged at once where there is no kernel."""


@dataclass(frozen=True)
class Ask:
    """The masks to measure, the picture's size, and the three thresholds, which rise."""

    logits: Tensor  # (m, s, s), contiguous
    wanted: Tensor  # (m,) bool: the others' measures mean nothing
    size: tuple[int, int]  # height and width of the picture
    thresholds: tuple[float, float, float]


@dataclass(frozen=True)
class Measures:
    """Pixels over each threshold, and the boxes of those over the middle one."""

    counts: Tensor  # (m, 3) int32
    # (m, 4) int32: xyxy, the last pixel included; zeros for an empty mask, as upstream has it.
    boxes: Tensor


Measure = Callable[[Ask], Measures]


def measure_plainly(ask: Ask) -> Measures:
    """Enlarges a few masks at a time, with torch's own interpolation."""
    height, width = ask.size
    at_once = max(PIXELS_AT_ONCE // (height * width), 1)
    parts = [_measure_part(part, ask) for part in ask.logits.split(at_once)]
    return Measures(
        torch.cat([part.counts for part in parts]), torch.cat([part.boxes for part in parts])
    )


def _measure_part(logits: Tensor, ask: Ask) -> Measures:
    large = interpolate(logits.float()[None], ask.size, mode="bilinear", align_corners=False)[0]
    over = [large > threshold for threshold in ask.thresholds]
    counts = torch.stack([each.sum((1, 2), dtype=torch.int32) for each in over], 1)
    first_x, last_x = _ends(over[1].any(1))
    first_y, last_y = _ends(over[1].any(2))
    boxes = torch.stack([first_x, first_y, last_x, last_y], 1)
    return Measures(counts, boxes * (counts[:, 1:2] > 0))


def _ends(lines: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the last of the lines `(m, n) bool` that is set, `(m,)` int32."""
    at = torch.arange(lines.shape[1], dtype=torch.int32, device=lines.device)
    return at.masked_fill(~lines, lines.shape[1]).amin(1), at.masked_fill(~lines, -1).amax(1)


def measure_for(device: torch.device) -> Measure:
    """The kernel where it runs and agrees with torch, else torch alone; says why in the log."""

    def kernel() -> Measure:
        from seg_pipeline.segmenters.sam2.batched.kernels import measure_masks

        return measure_masks

    plain: Measure = measure_plainly
    return kernel_or_plain(device, kernel, partial(_check, device=device), plain, "measured")


def _check(measure: Measure, device: torch.device) -> None:
    """Raises ValueError if the measures of random masks are not torch's.

    A pixel may differ where a logit is within rounding of a threshold.
    """
    random = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(5, 64, 64, generator=random)).to(device)
    for size in ((150, 333), (40, 70)):
        ask = Ask(logits, torch.ones(5, dtype=torch.bool, device=device), size, (-1.0, 0.0, 1.0))
        ours, theirs = measure(ask), measure_plainly(ask)
        off = max(
            int((getattr(ours, name) - getattr(theirs, name)).abs().max())
            for name in ("counts", "boxes")
        )
        if off > 2:
            raise ValueError(f"it is off by {off} pixels")
