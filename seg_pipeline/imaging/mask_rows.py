"""Reads a mask's PNG a few rows at a time, eight pixels a byte: a whole mask of a hundred
megapixels takes 12.5 MB so, and a strip of it next to nothing."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from seg_pipeline.domain import BoolMask
from seg_pipeline.errors import TruncatedImage
from seg_pipeline.imaging.masks import decode_mask_png, encode_mask_png, own_png_pixels
from seg_pipeline.imaging.pixels import STRIP_PIXELS

PackedRows = NDArray[np.uint8]
"""Rows of a mask as `(n, ceil(width / 8)) uint8`, the leftmost pixel in the highest bit."""


class MaskRows:
    """The rows of a mask's PNG, taken from the top. Only what is taken is unpacked.

    A PNG that `encode_mask_png` did not write is decoded whole and encoded anew first. Raises
    ImageError.
    """

    def __init__(self, png: bytes, max_pixels: int) -> None:
        found = own_png_pixels(png, max_pixels)
        if found is None:
            own = encode_mask_png(decode_mask_png(png, max_pixels))
            found = own_png_pixels(own, max_pixels)
        assert found is not None
        self.resolution_wh, self._deflated = found
        self._inflating = zlib.decompressobj()

    def take(self, count: int) -> PackedRows:
        """The next `count` rows; TruncatedImage if there are not so many."""
        length = 1 + (self.resolution_wh[0] + 7) // 8
        data = self._inflated(count * length)
        if len(data) < count * length:
            raise TruncatedImage("The mask ends before its last row.")
        return np.frombuffer(data, dtype=np.uint8).reshape(count, length)[:, 1:]

    def skip(self, count: int) -> None:
        """Passes over the next `count` rows, holding few of them at a time."""
        step = max(1, STRIP_PIXELS // self.resolution_wh[0])
        for first in range(0, count, step):
            self.take(min(step, count - first))

    def _inflated(self, size: int) -> bytes:
        try:
            data = self._inflating.decompress(self._deflated, size)
        except zlib.error as error:
            raise TruncatedImage(f"The mask is damaged: {error}.") from error
        self._deflated = self._inflating.unconsumed_tail
        return data


@dataclass(frozen=True, eq=False)
class PackedMask:
    """A full-frame mask, eight pixels a byte."""

    resolution_wh: tuple[int, int]
    rows: PackedRows

    @classmethod
    def read(cls, rows: MaskRows) -> Self:
        """All the rows, of which none was taken yet."""
        return cls(rows.resolution_wh, rows.take(rows.resolution_wh[1]))

    def columns(self) -> Iterator[tuple[tuple[int, int], BoolMask]]:
        """The mask from left to right in windows of some `STRIP_PIXELS`, each with its corner.

        Columns at either side and rows above and below that have no pixel are left out.
        """
        rows, across = np.flatnonzero(self.rows.any(axis=1)), np.flatnonzero(self.rows.any(axis=0))
        if not rows.size:
            return
        inside = slice(int(rows[0]), int(rows[-1]) + 1)
        step = max(1, STRIP_PIXELS // (8 * (inside.stop - inside.start)))
        for first in range(int(across[0]), int(across[-1]) + 1, step):
            last = min(first + step, int(across[-1]) + 1)
            packed = self.rows[inside, first:last]
            yield (8 * first, inside.start), unpacked(packed, self.resolution_wh[0] - 8 * first)


def unpacked(rows: PackedRows, width: int) -> BoolMask:
    """The pixels of packed rows, `(n, w) bool`, at most `width` across."""
    return np.unpackbits(rows, axis=1, count=min(8 * rows.shape[1], width)).view(np.bool_)
