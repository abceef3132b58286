"""A detection's mask at full resolution, made on the host."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from seg_pipeline.domain import Mask
from seg_pipeline.segmenters.yolo.letterbox import Letterbox, Positions


def decode_mask(
    logits: NDArray[np.float32], xyxy: NDArray[np.float32], letterbox: Letterbox
) -> Mask | None:
    """The mask of one detection at full resolution; None if no pixel in its box is set.

    `logits` is `(h, w)` at the prototypes' resolution. It is interpolated (bilinear) at the centre
    of every pixel of the box, so the cost is the box's area and not the picture's.
    """
    x1, y1, x2, y2 = (int(side) for side in np.ceil(xyxy))
    if x1 >= x2 or y1 >= y2:
        return None
    columns, rows = letterbox.prototype_positions(np.arange(x1, x2) + 0.5, np.arange(y1, y2) + 0.5)
    across = _interpolate_axis(logits, columns, axis=1)
    bits = np.empty((y2 - y1, x2 - x1), dtype=np.bool_)
    for strip in _strips(y2 - y1, x2 - x1):
        np.greater(_interpolate_axis(across, rows[strip], axis=0), 0, out=bits[strip])
    return Mask.from_window(bits, (x1, y1), letterbox.picture_wh)


def _strips(height: int, width: int) -> Iterator[slice]:
    """Groups of rows of some 64k pixels each: they stay in the cache, and need few large floats."""
    step = max(1, 2**16 // width)
    return (slice(start, start + step) for start in range(0, height, step))


def _interpolate_axis(values: NDArray[np.float32], at: Positions, axis: int) -> NDArray[np.float32]:
    """`values` sampled linearly along one axis at fractional positions, with the edge continued."""
    at = np.clip(at, 0, values.shape[axis] - 1)
    below = at.astype(np.intp)
    above = np.minimum(below + 1, values.shape[axis] - 1)
    weight = (at - below).astype(np.float32)
    weight = weight[:, None] if axis == 0 else weight[None, :]
    low, high = values.take(below, axis), values.take(above, axis)
    high -= low
    high *= weight
    high += low
    return high


def mask_logits(coefficients: torch.Tensor, prototypes: torch.Tensor) -> NDArray[np.float32]:
    """Logits `(n, h, w)` of each detection at the prototypes' resolution."""
    channels, height, width = prototypes.shape
    logits = coefficients @ prototypes.float().view(channels, -1)
    return logits.view(-1, height, width).cpu().numpy()


class MaskMaker(Protocol):
    """Makes the masks of a batch."""

    def __call__(
        self,
        boxes: Sequence[NDArray[np.float32]],
        coefficients: Sequence[torch.Tensor],
        prototypes: torch.Tensor,
        letterboxes: Sequence[Letterbox],
    ) -> list[list[Mask | None]]:
        """The masks of each picture's detections, in order; None where no pixel is set.

        Boxes are `(k, 4)` xyxy in the picture, coefficients `(k, c)`, and prototypes
        `(n, c, h, w)`.
        """
        ...


def host_masks(
    boxes: Sequence[NDArray[np.float32]],
    coefficients: Sequence[torch.Tensor],
    prototypes: torch.Tensor,
    letterboxes: Sequence[Letterbox],
) -> list[list[Mask | None]]:
    """A `MaskMaker` that makes one mask after the other."""
    return [
        [
            decode_mask(logits, box, letterbox)
            for logits, box in zip(mask_logits(weights, each), found, strict=True)
        ]
        for found, weights, each, letterbox in zip(
            boxes, coefficients, prototypes, letterboxes, strict=True
        )
    ]
