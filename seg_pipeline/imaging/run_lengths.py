"""COCO's compressed run lengths, counted part by part of a mask."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg_pipeline.domain import BoolMask
from seg_pipeline.imaging.pixels import strips

Turns = NDArray[np.int64]


def windows_to_rle(
    resolution_wh: tuple[int, int], windows: Iterable[tuple[tuple[int, int], BoolMask]]
) -> dict[str, Any]:
    """The mask as `{"size": [height, width], "counts": text}`, from windows of it.

    A window is its corner `(x, y)` and its pixels. Windows come from left to right, none above
    another, and together hold every set pixel.
    """
    from pycocotools import mask as coco

    width, height = resolution_wh
    turns = [_turns(part, corner, height) for xy, window in windows
             for corner, part in _column_strips(xy, window)]  # fmt: skip
    lengths = _lengths(np.concatenate([np.empty(0, np.int64), *turns]), width * height)
    encoded = coco.frPyObjects({"size": [height, width], "counts": lengths}, height, width)
    return {"size": [height, width], "counts": encoded["counts"].decode("ascii")}


def _column_strips(
    xy: tuple[int, int], window: BoolMask
) -> Iterable[tuple[tuple[int, int], BoolMask]]:
    """The window in strips of columns, since counting takes several bytes a pixel."""
    height, width = window.shape
    return (
        ((xy[0] + columns.start, xy[1]), window[:, columns]) for columns in strips(width, height)
    )


def _turns(window: BoolMask, xy: tuple[int, int], height: int) -> Turns:
    """Where runs of set pixels begin and end in turn, counted down the picture's columns."""
    edges = np.diff(np.pad(window.T.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    columns, rows = np.nonzero(edges)
    return (xy[0] + columns) * height + xy[1] + rows


def _lengths(turns: Turns, pixels: int) -> NDArray[np.int64]:
    """Lengths of unset and set runs in turn; the first is unset, even of length 0."""
    # A run that ends at the foot of a column and goes on at the head of the next is one run.
    ends = 1 + 2 * np.flatnonzero(turns[1:-1:2] == turns[2::2])
    turns = np.delete(turns, np.concatenate([ends, ends + 1]))
    lengths = np.diff(turns, prepend=0, append=pixels)
    return lengths if lengths[-1] else lengths[:-1]
