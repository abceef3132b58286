"""Masks that are made where they are in doubt: what `turbo` saves on a CPU, where making them is
half of the work.

The decoder makes the 4 x 4 pixels of a position from that position's features alone. So masks are
made in a sample of the positions at first: every fourth of every fourth row, and where these do not
show a mask to be unstable, every other of every other row. To those that are left are added the
positions that differ from a neighbour or are near a threshold, until there are none. What stays,
far inside a mask or far outside, takes the pixels of the sample's nearest position. A hole or an
island so small that it lies between the sample's positions may be missed, but not at the point that
asked for the mask; and a mask that is hardly stable enough is made everywhere, so that what was
missed does not decide.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from seg_pipeline.segmenters.sam2.decoder import Attended, FastMaskDecoder, ImageCache, PointMasks
from seg_pipeline.segmenters.sam2.upsampling import over_threshold

STEP = 2
"""The sample's positions are as far apart."""

FEW_STEP = 4
"""The first of them that are looked at; it is a multiple of `STEP`."""

MARGIN = 4.0
"""By so much must a position's logits be beyond the thresholds not to be in doubt: its neighbours'
may be nearer."""

AROUND_POINT = 2
"""Positions that are always looked at, to each side of the point."""

MOST_ROUNDS = 4
"""So often at most are positions added, each time next to those that were in doubt before."""

CLOSE = 0.005
"""A mask whose stability is as close to the least one is made everywhere."""

FEWEST_POSITIONS = 1024
"""With fewer, choosing them takes the time that it saves."""


@dataclass(frozen=True)
class Thresholds:
    """What masks are looked at for: pixels over `low` and over `high`, whose ratio is to be
    `least_stability`."""

    low: float
    high: float
    least_stability: float


class MaskSampler:
    """The masks of one picture's points, at those positions that matter."""

    def __init__(
        self, decoder: FastMaskDecoder, shared: ImageCache, thresholds: Thresholds
    ) -> None:
        self._decoder = decoder
        self._shared = shared
        self._thresholds = thresholds
        rows, columns = (torch.arange(0, side, STEP) for side in decoder.size)
        self._sample_size = len(rows), len(columns)
        positions = rows[:, None] * decoder.size[1] + columns
        few = (rows % FEW_STEP == 0)[:, None] & (columns % FEW_STEP == 0)
        self._few, self._more = positions[few], positions[~few]
        self._sample = torch.cat([self._few, self._more])
        self._in_order = self._sample.argsort()

    def masks(
        self, looked: Attended, wanted: Tensor, points: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """As `FastMaskDecoder.masks`, and which of the wanted masks `(p, m) bool` these are.

        `points`: where they are `(p, 2)`, xy, from 0 to 1.
        """
        made, kept = [], wanted.clone()
        for masks in self._decoder.point_masks(looked, wanted):
            sampled, stable = self._look_at(masks)
            kept[masks.point, wanted[masks.point]] = stable
            if stable.any():
                made.append(self._complete(masks.take(stable), sampled, points[masks.point]))
        return made, kept

    def _look_at(self, masks: PointMasks) -> tuple[Tensor, Tensor]:
        """The sample `(k', s, 16)` of those of the masks `(k,)` that may be stable enough, and
        which these are."""
        logits = self._decoder.upscale(self._shared, masks, self._few)
        stable = self._may_be_stable(logits)
        if stable.any():
            more = self._decoder.upscale(self._shared, masks.take(stable), self._more)
            logits = torch.cat([logits[stable], more], 1)
            still = self._may_be_stable(logits)
            stable = stable.masked_scatter(stable, still)
            logits = logits[still][:, self._in_order]
        return logits, stable

    def _may_be_stable(self, logits: Tensor) -> Tensor:
        """Which masks `(k,) bool` may be stable enough, for all that the sample `(k, s, 16)` shows.

        Its stability is an estimate, off by two standard errors at most; each position counts as
        one observation, since its pixels are much alike.
        """
        stability, low = self._stability(logits)
        observations = low / logits.shape[2]
        error = 2 * (stability * (1 - stability) / observations).sqrt() + 1 / observations
        return stability + error >= self._thresholds.least_stability

    def _stability(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The stability of masks `(k, s, 16)`, and their pixels over the lower threshold; both
        counts are one at least, `(k,)` float32."""
        low, high = (
            over_threshold(logits, threshold).sum((1, 2)).clamp_(min=1)
            for threshold in (self._thresholds.low, self._thresholds.high)
        )
        return high / low, low

    def _complete(self, masks: PointMasks, sampled: Tensor, point: Tensor) -> Tensor:
        """The masks `(k, 4 h, 4 w)` from what the sample has of them `(k, s, 16)`."""
        logits, sides = (
            self._spread(sampled),
            self._spread(self._sides(sampled)[:, :, None])[:, :, 0],
        )
        known = torch.zeros(self._decoder.positions, dtype=torch.bool)
        known[self._sample] = True
        looked_at = self._around(point)
        for _ in range(MOST_ROUNDS):
            looked_at |= _in_doubt(sides.unflatten(1, self._decoder.size)).flatten()
            missing = torch.nonzero(looked_at & ~known).flatten()
            if not len(missing):
                break
            more = self._decoder.upscale(self._shared, masks, missing)
            logits[:, missing] = more
            sides[:, missing] = self._sides(more)
            known[missing] = True
        close = (self._stability(logits)[0] - self._thresholds.least_stability).abs() < CLOSE
        if close.any():
            missing = torch.nonzero(~known).flatten()
            logits[torch.nonzero(close), missing] = self._decoder.upscale(
                self._shared, masks.take(close), missing
            )
        return self._decoder.arrange(logits)

    def _spread(self, sampled: Tensor) -> Tensor:
        """Of the nearest position of the sample `(k, s, x)`, at all positions `(k, n, x)`."""
        height, width = self._decoder.size
        whole = sampled.unflatten(1, self._sample_size)[:, :, None, :, None].expand(
            -1, -1, STEP, -1, STEP, -1
        )
        return whole.flatten(3, 4).flatten(1, 2)[:, :height, :width].flatten(1, 2)

    def _sides(self, logits: Tensor) -> Tensor:
        """1 for positions of `(k, s, 16)` within the mask, -1 for those outside, 0 for those in
        doubt; int8."""
        inside = logits.amin(2) > self._thresholds.high + MARGIN
        outside = logits.amax(2) < self._thresholds.low - MARGIN
        return inside.to(torch.int8) - outside.to(torch.int8)

    def _around(self, point: Tensor) -> Tensor:
        """Whether a position `(n,)` is near the point."""
        near = [
            (torch.arange(side) - (at * side).floor()).abs() <= AROUND_POINT
            for side, at in zip(self._decoder.size, point.flip(0), strict=True)
        ]
        return (near[0][:, None] & near[1]).flatten()


def _in_doubt(sides: Tensor) -> Tensor:
    """Positions `(h, w)` of `(k, h, w)` that are in doubt for some mask, or next to one that is or
    on another side."""
    least, most = (_of_neighbours(sides, of_two) for of_two in (torch.minimum, torch.maximum))
    return ((least != most) | (sides == 0)).any(0)


def _of_neighbours(sides: Tensor, of_two: Callable[..., Tensor]) -> Tensor:
    """The least or the greatest of each position of `(k, h, w)` and its eight neighbours."""
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
