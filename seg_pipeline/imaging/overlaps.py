"""How much of masks of one picture overlaps, by words of 64 pixels.

Hundreds of masks of a large picture have tens of thousands of pairs. A pair whose boxes share too
little is not looked at, and the others are compared where their boxes meet.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seg_pipeline.domain import Box, Mask
from seg_pipeline.imaging.pixels import strips

WORD = 64

Areas = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PackedBits:
    """A mask's bits inside its box, `(box.height, n) uint64`.

    The first word has the picture's pixels from `64 * first_word` on.
    """

    box: Box
    area: int
    first_word: int
    words: NDArray[np.uint64]

    @classmethod
    def of(cls, mask: Mask) -> "PackedBits":
        """The mask's bits, packed a strip at a time."""
        box = mask.box
        first, last = box.x // WORD, (box.x + box.width - 1) // WORD
        packed = np.zeros((box.height, (last + 1 - first) * WORD // 8), dtype=np.uint8)
        for strip in strips(box.height, box.width):
            shifted = np.pad(mask.bits[strip], ((0, 0), (box.x - first * WORD, 0)))
            rows = np.packbits(shifted, axis=1)
            packed[strip, : rows.shape[1]] = rows
        return cls(box, mask.area, first, packed.view(np.uint64))

    def shared_area(self, other: "PackedBits") -> int:
        """The pixels set in both."""
        top = max(self.box.y, other.box.y)
        bottom = min(self.box.y + self.box.height, other.box.y + other.box.height)
        left = max(self.first_word, other.first_word)
        right = min(self.first_word + self.words.shape[1], other.first_word + other.words.shape[1])
        if top >= bottom or left >= right:
            return 0
        ours, theirs = (
            each.words[
                top - each.box.y : bottom - each.box.y,
                left - each.first_word : right - each.first_word,
            ]
            for each in (self, other)
        )
        return int(np.bitwise_count(ours & theirs).sum(dtype=np.int64))


def areas_of(masks: Sequence[PackedBits]) -> Areas:
    """The pixels of each, `(n,)`."""
    return np.array([mask.area for mask in masks], dtype=np.int64)


def shared_areas(
    ours: Sequence[PackedBits], theirs: Sequence[PackedBits], least: NDArray[np.float64]
) -> Areas:
    """The pixels that each of ours shares with each of theirs, `(ours, theirs)`.

    A pair is 0 where the boxes show that it is less than `least`, of the same shape.
    """
    of_boxes = _shared_areas_of_boxes([each.box for each in ours], [each.box for each in theirs])
    shared = np.zeros(of_boxes.shape, dtype=np.int64)
    for row, column in np.argwhere((of_boxes > 0) & (of_boxes >= least)).tolist():
        shared[row, column] = ours[row].shared_area(theirs[column])
    return shared


def shared_areas_within(masks: Sequence[PackedBits], least: NDArray[np.float64]) -> Areas:
    """The same among the masks themselves, each pair compared once."""
    upper = np.triu(np.ones((len(masks), len(masks)), dtype=np.bool_), k=1)
    shared = shared_areas(masks, masks, np.where(upper, least, np.inf))
    return shared + shared.T + np.diag(areas_of(masks))


def ious(shared: Areas, ours: Areas, theirs: Areas) -> NDArray[np.float64]:
    """Intersection over union of each pair; 0 where nothing is shared."""
    union = ours[:, None] + theirs[None, :] - shared
    return np.asarray(shared / np.maximum(union, 1), dtype=np.float64)


def _shared_areas_of_boxes(ours: Sequence[Box], theirs: Sequence[Box]) -> Areas:
    (x0, y0, x1, y1), (u0, v0, u1, v1) = _corners(ours), _corners(theirs)
    across = np.minimum(x1[:, None], u1) - np.maximum(x0[:, None], u0)
    down = np.minimum(y1[:, None], v1) - np.maximum(y0[:, None], v0)
    return np.asarray(np.maximum(across, 0) * np.maximum(down, 0), dtype=np.int64)


def _corners(boxes: Sequence[Box]) -> NDArray[np.int64]:
    corners = [(box.x, box.y, box.x + box.width, box.y + box.height) for box in boxes]
    return np.array(corners, dtype=np.int64).reshape(-1, 4).T
