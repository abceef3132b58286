"""Measures a mask at the picture's size without enlarging it, since most masks are dropped.

Upstream enlarges every mask by bilinear interpolation to count pixels and find its box. A *cell*
lies between four neighbouring positions of the small mask. Its interpolated logits stay between the
least and the greatest of the four. If all four are on one side of a threshold, so are all pixels of
the cell. Only the pixels of the other cells are computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from seg_pipeline.domain import BoolMask, Box

PIXELS_AT_ONCE = 2**21
"""Pixels that are computed at once."""

MOST_MIXED = 0.25
"""The share of cells in doubt above which all pixels of a mask are computed.

For such masks, such as noise, that is faster.
"""


@dataclass(frozen=True)
class Axis:
    """One axis of `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`.

    A pixel of the picture lies between the positions `first` and `second` of the small mask, at
    `share` of the way. All three are `(pixels,)`. Cell `i` has `counts[i]` pixels from `starts[i]`
    on.
    """

    first: Tensor
    second: Tensor
    share: Tensor
    counts: Tensor
    starts: Tensor

    @classmethod
    def of(cls, small: int, pixels: int, device: torch.device | str) -> "Axis":
        """Upstream: ATen's `area_pixel_compute_source_index` and `guard_index_and_lambda`."""
        at = (torch.arange(pixels, dtype=torch.float32, device=device) + 0.5) * (
            small / pixels
        ) - 0.5
        at = at.clamp_(min=0)
        first = at.long().clamp_(max=small - 1)
        counts = torch.bincount(first, minlength=small)
        share = (at - first).clamp_(0, 1)
        return cls(
            first, (first + 1).clamp_(max=small - 1), share, counts, counts.cumsum(0) - counts
        )

    def shares_of_cells(self) -> Tensor:
        """The share of each cell's pixels `(most of a cell, small)`; NaN where it has fewer."""
        pixel = torch.arange(int(self.counts.max()), device=self.share.device)[:, None]
        shares = self.share[(self.starts + pixel).clamp(max=len(self.share) - 1)]
        return shares.masked_fill(pixel >= self.counts, torch.nan)


@dataclass(frozen=True)
class Measures:
    """Measures of masks at the picture's size: pixels over each threshold, and boxes.

    The boxes are those of the pixels over the middle threshold.
    """

    counts: Tensor  # (m, 3) int64
    # (m, 4) int64: xyxy, the last pixel included; zeros for an empty mask, as upstream has it.
    boxes: Tensor


class Upsampling:
    """Masks of `small` x `small` logits in a picture of `height` x `width`."""

    def __init__(
        self, small: int, height: int, width: int, device: torch.device | str = "cpu"
    ) -> None:
        self._y, self._x = Axis.of(small, height, device), Axis.of(small, width, device)
        self._cell_y, self._cell_x = self._y.shares_of_cells(), self._x.shares_of_cells()
        self._has_pixels = ((self._y.counts > 0)[:, None] & (self._x.counts > 0)).to(torch.int8)

    def most_stable(self, logits: Tensor, low: float, high: float) -> Tensor:
        """An upper bound `(m,)` float32 of the stability of masks `(m, small, small)` float32.

        Stability is the pixels over `high` divided by those over `low`. For `high`, cells with any
        corner over it count in full; for `low`, only cells with all four. The bound is infinite or
        NaN if there are none of these.
        """
        least, greatest = _ranks_of_cells(logits, (low, high))
        return self._count(over_threshold(greatest, 1)) / self._count(over_threshold(least, 0))

    def measure(self, logits: Tensor, thresholds: tuple[float, float, float]) -> Measures:
        """Counts and boxes of `(m, small, small)` float32.

        The middle threshold is the mask's own.
        """
        least, greatest = _ranks_of_cells(logits, thresholds)
        mixed = torch.ne(least, greatest, out=torch.empty_like(least)).mul_(self._has_pixels)
        first, last = self._whole_extents(over_threshold(least, 1).mul_(self._has_pixels))
        least.mul_(1 - mixed)
        counts = torch.stack([self._count(over_threshold(least, rank)) for rank in range(3)], 1)
        cells = torch.nonzero(mixed)
        dense = (
            torch.bincount(cells[:, 0], minlength=len(logits))
            > MOST_MIXED * self._has_pixels.count_nonzero()
        )
        cells = cells[~dense[cells[:, 0]]]
        for some in cells.split(max(PIXELS_AT_ONCE // (len(self._cell_y) * len(self._cell_x)), 1)):
            pixels = self._pixels(logits, some)
            over = [over_threshold(pixels, threshold) for threshold in thresholds]
            of_cells = torch.stack([each.sum((0, 1)) for each in over]).long()
            counts.T.index_add_(1, some[:, 0], of_cells)
            self._widen(first, last, some, over[1], torch.nonzero(of_cells[1]).flatten())
        for index in torch.nonzero(dense).flatten().tolist():
            counts[index], first[index], last[index] = self._measure_enlarged(
                logits[index], thresholds
            )
        boxes = torch.cat([first, last], 1)
        return Measures(counts, boxes * (first <= last).all(1, keepdim=True))

    def _measure_enlarged(
        self, logits: Tensor, thresholds: tuple[float, float, float]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The counts `(3,)` and the extents `(2,)` of one mask, upstream's way."""
        size = len(self._y.first), len(self._x.first)
        full = interpolate(logits[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        over = [full > threshold for threshold in thresholds]
        sides = [torch.nonzero(over[1].any(axis)).flatten() for axis in (0, 1)]
        first = torch.stack([side.amin() if len(side) else side.new_tensor(_FAR) for side in sides])
        last = torch.stack([side.amax() if len(side) else side.new_tensor(-1) for side in sides])
        return torch.stack([each.count_nonzero() for each in over]), first, last

    def mask(
        self, logits: Tensor, corner_yx: tuple[int, int], box: Box, threshold: float
    ) -> BoolMask:
        """The pixels `(box.height, box.width)` over the threshold.

        `logits` is a window of the small mask. It begins at `corner_yx` and has all positions that
        the box needs.
        """
        rows, columns = box.slices
        first, second, share = (
            axis[columns] for axis in (self._x.first, self._x.second, self._x.share)
        )
        across = (
            logits[:, first - corner_yx[1]] * (1 - share) + logits[:, second - corner_yx[1]] * share
        )
        first, second, share = (
            axis[rows] for axis in (self._y.first, self._y.second, self._y.share)
        )
        down = across[first - corner_yx[0]].mul_(1 - share[:, None])
        down += across[second - corner_yx[0]].mul_(share[:, None])
        return (down > threshold).cpu().numpy()

    def window(self, box: Box) -> tuple[slice, slice]:
        """Rows and columns of the small mask that a box of the picture needs."""
        rows, columns = box.slices
        return (
            slice(int(self._y.first[rows.start]), int(self._y.second[rows.stop - 1]) + 1),
            slice(int(self._x.first[columns.start]), int(self._x.second[columns.stop - 1]) + 1),
        )

    def _count(self, cells: Tensor) -> Tensor:
        """The pixels `(m,)` of the cells `(m, small, small)` that are 1."""
        rows = cells.float() @ self._x.counts.float()  # exact: a row has fewer than 2**24 pixels
        return (rows.long() * self._y.counts).sum(1)

    def _whole_extents(self, whole: Tensor) -> tuple[Tensor, Tensor]:
        """The first and last pixel `(m, 2)` in x and y of the cells that are 1.

        Without any, the first is beyond the last.
        """
        ends = [_extent(whole.amax(1) > 0, self._x), _extent(whole.amax(2) > 0, self._y)]
        return torch.stack([first for first, _ in ends], 1), torch.stack(
            [last for _, last in ends], 1
        )

    def _pixels(self, logits: Tensor, cells: Tensor) -> Tensor:
        """The pixels `(rows, columns, k)` of cells `(k, 3)`: mask, row, column.

        They are NaN beyond a cell's last.
        """
        mask, row, column = cells.unbind(1)
        below, right = (
            (row + 1).clamp(max=logits.shape[1] - 1),
            (column + 1).clamp(max=logits.shape[2] - 1),
        )
        share = self._cell_x.index_select(1, column)
        top = logits[mask, row, column] * (1 - share) + logits[mask, row, right] * share
        bottom = logits[mask, below, column] * (1 - share) + logits[mask, below, right] * share
        share = self._cell_y.index_select(1, row)[:, None]
        return top * (1 - share) + bottom * share

    def _widen(
        self, first: Tensor, last: Tensor, cells: Tensor, over: Tensor, some: Tensor
    ) -> None:
        """Widens the extents by the pixels `over (rows, columns, k)` of the cells, 1 or 0.

        Cells `some` have a 1.
        """
        cells = cells[some]
        for side, axis in enumerate((self._x, self._y)):
            for extent, reduction in ((first, "amin"), (last, "amax")):
                outermost = _outermost(cells[:, 0], cells[:, 2 - side], len(extent), reduction)
                lines = over.index_select(2, some[outermost]).amax(side)
                at = axis.starts[cells[outermost, 2 - side]] + _end(lines, reduction)
                extent[:, side].scatter_reduce_(0, cells[outermost, 0], at, reduction)


def _outermost(mask: Tensor, place: Tensor, masks: int, reduction: str) -> Tensor:
    """The index of the cells `(k,)` with the least or the greatest place in their mask."""
    extreme = place.new_zeros(masks).scatter_reduce_(0, mask, place, reduction, include_self=False)
    return torch.nonzero(place == extreme[mask]).flatten()


def _end(lines: Tensor, reduction: str) -> Tensor:
    """The first or the last of each cell's lines `(lines, k)` that is 1."""
    return lines.argmax(0) if reduction == "amin" else len(lines) - 1 - lines.flip(0).argmax(0)


_FAR = 2**40


def _extent(cells: Tensor, axis: Axis) -> tuple[Tensor, Tensor]:
    """The first and last pixel of the cells `(m, small) bool` along an axis.

    They are `_FAR` and -1 where there are none.
    """
    first = axis.starts.expand(cells.shape).masked_fill(~cells, _FAR).amin(1)
    last = (axis.starts + axis.counts - 1).expand(cells.shape).masked_fill(~cells, -1).amax(1)
    return first, last


def _ranks_of_cells(logits: Tensor, thresholds: Sequence[float]) -> tuple[Tensor, Tensor]:
    """How many thresholds the least and the greatest corner of each cell are over.

    The thresholds rise. Both results are `(m, small, small)` int8. The last row and column are
    their own neighbours.
    """
    over = torch.zeros_like(logits)
    for threshold in thresholds:
        over += over_threshold(logits, threshold)
    ranks, extremes = over.to(torch.int8), []
    for of_two in (torch.minimum, torch.maximum):
        cells = ranks.clone()
        of_two(cells[:, :-1], ranks[:, 1:], out=cells[:, :-1])
        across = cells.clone()
        of_two(across[:, :, :-1], cells[:, :, 1:], out=across[:, :, :-1])
        extremes.append(across)
    return extremes[0], extremes[1]


def over_threshold(x: Tensor, threshold: float) -> Tensor:
    """1 where `x` is over the threshold, else 0, in the dtype of `x`.

    On a CPU that takes a tenth of the time of booleans.
    """
    return torch.gt(x, threshold, out=torch.empty_like(x))
