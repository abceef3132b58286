"""Computes masks only where they are in doubt: `turbo` on a CPU, where masks are half of the work.

The decoder computes the 4 x 4 pixels of a position from that position's features alone. So masks
are first computed at a sample of the positions: every fourth of every fourth row. Masks that look
stable there get every other position of every other row. For masks that still do, positions that
differ from a neighbour or are near a threshold are added until there are none.

The other positions, far inside or far outside a mask, take the pixels of the nearest sampled
position. A hole or an island between the sampled positions may be missed, but not at the point
itself. A mask that is hardly stable enough is computed everywhere, so that no missed part decides.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from seg_pipeline.segmenters.sam2.decoder import Attended, FastMaskDecoder, ImageCache, PointMasks
from seg_pipeline.segmenters.sam2.upsampling import over_threshold

STEP = 2
"""The distance between the sample's positions."""

FEW_STEP = 4
"""The distance between the positions of the first sample, a multiple of `STEP`."""

MARGIN = 4.0
"""By so much a position's logits must be beyond the thresholds not to be in doubt.

Its neighbours' logits may be nearer.
"""

AROUND_POINT = 2
"""The positions to each side of the point that are always computed."""

MOST_ROUNDS = 4
"""The most rounds of adding positions, each next to those that were in doubt before."""

CLOSE = 0.005
"""A mask whose stability is this close to the threshold is computed everywhere."""

FEWEST_POSITIONS = 1024
"""With fewer positions, the choice takes the time that it saves."""


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of stability.

    The ratio of the pixels over `high` to those over `low` is to be `least_stability`.
    """

    low: float
    high: float
    least_stability: float


class MaskSampler:
    """The masks of one picture's points, computed at the positions that matter."""

    def __init__(self, decoder: FastMaskDecoder, cache: ImageCache, thresholds: Thresholds) -> None:
        self._decoder = decoder
        self._cache = cache
        self._thresholds = thresholds
        rows, columns = (torch.arange(0, side, STEP) for side in decoder.size)
        self._sample_size = len(rows), len(columns)
        positions = rows[:, None] * decoder.size[1] + columns
        few = (rows % FEW_STEP == 0)[:, None] & (columns % FEW_STEP == 0)
        self._few, self._more = positions[few], positions[~few]
        self._sample = torch.cat([self._few, self._more])
        self._in_order = self._sample.argsort()

    def masks(
        self, attended: Attended, wanted: Tensor, points: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """As `FastMaskDecoder.masks`, and which of the wanted masks `(p, m) bool` these are.

        `points (p, 2)` are their xy, from 0 to 1.
        """
        made, kept = [], wanted.clone()
        for masks in self._decoder.point_masks(attended, wanted):
            sampled, stable = self._sample_masks(masks)
            kept[masks.point, wanted[masks.point]] = stable
            if stable.any():
                made.append(self._complete(masks.take(stable), sampled, points[masks.point]))
        return made, kept

    def _sample_masks(self, masks: PointMasks) -> tuple[Tensor, Tensor]:
        """The sample `(k', s, 16)` of the masks `(k,)` that may be stable, and which these are."""
        logits = self._decoder.upscale(self._cache, masks, self._few)
        stable = self._may_be_stable(logits)
        if stable.any():
            more = self._decoder.upscale(self._cache, masks.take(stable), self._more)
            logits = torch.cat([logits[stable], more], 1)
            still = self._may_be_stable(logits)
            stable = stable.masked_scatter(stable, still)
            logits = logits[still][:, self._in_order]
        return logits, stable

    def _may_be_stable(self, logits: Tensor) -> Tensor:
        """Which masks `(k,) bool` may be stable enough, judged by the sample `(k, s, 16)`.

        The sample's stability is an estimate, off by two standard errors at most. Each position
        counts as one observation, since its pixels are much alike.
        """
        stability, low = self._stability(logits)
        observations = low / logits.shape[2]
        error = 2 * (stability * (1 - stability) / observations).sqrt() + 1 / observations
        return stability + error >= self._thresholds.least_stability

    def _stability(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The stability of masks `(k, s, 16)`, and their pixels over the lower threshold.

        Both are `(k,)` float32. Counts are at least one.
        """
        low, high = (
            over_threshold(logits, threshold).sum((1, 2)).clamp_(min=1)
            for threshold in (self._thresholds.low, self._thresholds.high)
        )
        return high / low, low

    def _complete(self, masks: PointMasks, sampled: Tensor, point: Tensor) -> Tensor:
        """The masks `(k, 4 h, 4 w)` from their sample `(k, s, 16)`."""
        logits, sides = (
            self._spread(sampled),
            self._spread(self._sides(sampled)[:, :, None])[:, :, 0],
        )
        known = torch.zeros(self._decoder.positions, dtype=torch.bool)
        known[self._sample] = True
        needed = self._around(point)
        for _ in range(MOST_ROUNDS):
            needed |= _in_doubt(sides.unflatten(1, self._decoder.size)).flatten()
            missing = torch.nonzero(needed & ~known).flatten()
            if not len(missing):
                break
            more = self._decoder.upscale(self._cache, masks, missing)
            logits[:, missing] = more
            sides[:, missing] = self._sides(more)
            known[missing] = True
        close = (self._stability(logits)[0] - self._thresholds.least_stability).abs() < CLOSE
        if close.any():
            missing = torch.nonzero(~known).flatten()
            logits[torch.nonzero(close), missing] = self._decoder.upscale(
                self._cache, masks.take(close), missing
            )
        return self._decoder.arrange(logits)

    def _spread(self, sampled: Tensor) -> Tensor:
        """The values `(k, n, x)` of all positions, from the nearest one of `(k, s, x)`."""
        height, width = self._decoder.size
        whole = sampled.unflatten(1, self._sample_size)[:, :, None, :, None].expand(
            -1, -1, STEP, -1, STEP, -1
        )
        return whole.flatten(3, 4).flatten(1, 2)[:, :height, :width].flatten(1, 2)

    def _sides(self, logits: Tensor) -> Tensor:
        """1 for positions of `(k, s, 16)` inside the mask, -1 outside, 0 in doubt; int8."""
        inside = logits.amin(2) > self._thresholds.high + MARGIN
        outside = logits.amax(2) < self._thresholds.low - MARGIN
        return inside.to(torch.int8) - outside.to(torch.int8)

    def _around(self, point: Tensor) -> Tensor:
        """Which positions `(n,) bool` are near the point."""
        near = [
            (torch.arange(side) - (at * side).floor()).abs() <= AROUND_POINT
            for side, at in zip(self._decoder.size, point.flip(0), strict=True)
        ]
        return (near[0][:, None] & near[1]).flatten()


def _in_doubt(sides: Tensor) -> Tensor:
    """Positions `(h, w)` that are in doubt for some mask of `(k, h, w)`, or next to one.

    A position beside one on another side is in doubt too.
    """
    least, most = (_of_neighbours(sides, of_two) for of_two in (torch.minimum, torch.maximum))
    return ((least != most) | (sides == 0)).any(0)


def _of_neighbours(sides: Tensor, of_two: Callable[..., Tensor]) -> Tensor:
    """The minimum or maximum over each position of `(k, h, w)` and its eight neighbours."""
    for axis in (1, 2):
        before, after = (
            sides.narrow(axis, 0, sides.shape[axis] - 1),
            sides.narrow(axis, 1, sides.shape[axis] - 1),
        )
        pairs = of_two(before, after)
        sides = sides.clone()
        first, rest = (
            sides.narrow(axis, 0, sides.shape[axis] - 1),
            sides.narrow(axis, 1, sides.shape[axis] - 1),
        )
        of_two(first, pairs, out=first)
        of_two(rest, pairs, out=rest)
    return sides
