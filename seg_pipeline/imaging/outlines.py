"""Traces masks along the edges of their pixels: rings of corners, exact to the pixel.

Every corner is the end of one horizontal and one vertical edge. Corners of a row are joined in
pairs by horizontal edges, those of a column by vertical ones, and edges in turn make rings. So only
the corners are in memory, and numpy does the work. OpenCV's contours need several bytes a pixel.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg_pipeline.errors import OutputTooLarge
from seg_pipeline.imaging.mask_rows import PackedMask, unpacked

MAX_CORNERS = 1_000_000
"""A mask with more is noise; its rings would take more than 100 MB."""

_STRIP_PIXELS = 1_000_000

Points = NDArray[np.int32]
"""`(n, 2)`: x and y."""

# A corner's code: 1 if the pixel to its upper left is set, 2 upper right, 4 lower left, 8 lower
# right. Codes 6 and 9 are two corners in one place: diagonal pixels are not connected.
_IS_CORNER = np.zeros(16, dtype=np.bool_)
_IS_CORNER[[1, 2, 4, 8, 7, 11, 13, 14, 6, 9]] = True
_FIRST, _SECOND = np.arange(16), np.arange(16)
_FIRST[[6, 9]], _SECOND[[6, 9]] = [4, 1], [2, 8]
_LEAVES_SIDEWAYS = np.isin(np.arange(16), [1, 8, 11, 13])
_EDGE_IS_BELOW = np.isin(np.arange(16), [4, 7, 8, 11])
_PIXEL = np.zeros((16, 2), dtype=np.int32)
_PIXEL[[4, 13]], _PIXEL[[2, 11]], _PIXEL[[1, 7]] = (-1, 0), (0, -1), (-1, -1)


@dataclass(frozen=True, eq=False)
class Ring:
    """A closed line around set pixels, or around a hole in them; its first point is not repeated.

    Seen with y downwards, set pixels are on the right. `corners` are on the pixels' edges, and
    `pixels` are the set pixels inside each of them.
    """

    corners: Points
    pixels: Points

    @property
    def signed_area(self) -> int:
        """The pixels inside; negative for a hole."""
        x, y = self.corners.T.astype(np.int64)
        return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) // 2


@dataclass(frozen=True, eq=False)
class Outline:
    """A connected part of a mask."""

    exterior: Ring
    holes: list[Ring] = field(default_factory=list)


def outlines(mask: PackedMask) -> list[Outline]:
    """The parts of a mask, each with its holes. No ring meets itself.

    Raises OutputTooLarge for a mask of more than `MAX_CORNERS` corners.
    """
    rings = [part for ring in _rings(*_corners(mask)) for part in _parted(ring)]
    parts = {index: Outline(ring) for index, ring in enumerate(rings) if ring.signed_area > 0}
    for index, parent in _parents(mask, rings).items():
        parts[parent].holes.append(rings[index])
    return [*parts.values()]


def _corners(mask: PackedMask) -> tuple[Points, NDArray[np.uint8]]:
    """All corners and their codes, row by row; of two in one place the one that ends a run."""
    found = [*_corners_in_strips(mask)]
    points = np.concatenate([np.empty((0, 2), np.int32), *(points for points, _ in found)])
    codes = np.concatenate([np.empty(0, np.uint8), *(codes for _, codes in found)])
    copies = 1 + np.isin(codes, (6, 9))
    is_second = np.zeros(int(copies.sum()), dtype=np.bool_)
    is_second[np.cumsum(copies)[copies == 2] - 1] = True
    points, codes = np.repeat(points, copies, axis=0), np.repeat(codes, copies)
    return points, np.where(is_second, _SECOND[codes], _FIRST[codes]).astype(np.uint8)


def _corners_in_strips(mask: PackedMask) -> Iterator[tuple[Points, NDArray[np.uint8]]]:
    rows, columns = np.flatnonzero(mask.rows.any(axis=1)), np.flatnonzero(mask.rows.any(axis=0))
    if not rows.size:
        return
    window = mask.rows[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    offset = np.array([8 * columns[0], rows[0]], dtype=np.int32)
    step, count = max(1, _STRIP_PIXELS // (8 * window.shape[1])), 0
    for first in range(0, window.shape[0] + 1, step):
        codes = _codes(window, first, min(first + step, window.shape[0] + 1))
        y, x = np.nonzero(_IS_CORNER[codes])
        count += len(x)
        if count > MAX_CORNERS:
            raise OutputTooLarge(
                f"a mask has more than {MAX_CORNERS} corners; take a format without polygons."
            )
        yield np.stack([x, y + first], axis=1).astype(np.int32) + offset, codes[y, x]


def _codes(window: NDArray[np.uint8], first: int, last: int) -> NDArray[np.uint8]:
    """The codes of all points of the grid in rows `first` to `last` of it."""
    block = np.zeros((last - first + 1, 8 * window.shape[1] + 2), dtype=np.uint8)
    rows = slice(max(first - 1, 0), min(last, window.shape[0]))
    block[rows.start - first + 1 : rows.stop - first + 1, 1:-1] = unpacked(
        window[rows], 8 * window.shape[1]
    )
    above = block[:-1, :-1] | block[:-1, 1:] << 1
    codes: NDArray[np.uint8] = above | block[1:, :-1] << 2 | block[1:, 1:] << 3
    return codes


def _rings(points: Points, codes: NDArray[np.uint8]) -> Iterator[Ring]:
    order, starts = _cycles(_following(points, codes))
    pixels = points + _PIXEL[codes]
    for ring in np.split(order, starts[1:]) if len(order) else []:
        yield Ring(points[ring], pixels[ring])


def _following(points: Points, codes: NDArray[np.uint8]) -> NDArray[np.intp]:
    """The next corner of each along its ring."""
    across = np.arange(len(points)) ^ 1
    by_column = np.lexsort((_EDGE_IS_BELOW[codes], points[:, 1], points[:, 0]))
    down = np.empty_like(across)
    down[by_column[::2]], down[by_column[1::2]] = by_column[1::2], by_column[::2]
    return np.where(_LEAVES_SIDEWAYS[codes], across, down)


def _cycles(following: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The members of each cycle of a permutation in turn, and where each cycle begins.

    Every step doubles how far each member sees (pointer jumping, Wyllie 1979).
    """
    every = np.arange(len(following))
    steps = range(len(following).bit_length())
    lowest, far = every, following
    for _ in steps:
        lowest, far = np.minimum(lowest, lowest[far]), far[far]
    back = np.empty_like(following)
    back[following] = every
    is_first = lowest == every
    back[is_first] = every[is_first]
    distance = (~is_first).astype(np.intp)
    for _ in steps:
        distance, back = distance + distance[back], back[back]
    return np.lexsort((distance, lowest)), np.searchsorted(np.sort(lowest), every[is_first])


def _parted(ring: Ring) -> Iterator[Ring]:
    """The ring without the loops that it makes where it meets itself, and these loops."""
    keys = ring.corners[:, 1].astype(np.int64) << 32 | ring.corners[:, 0]
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    meetings = np.flatnonzero(counts[inverse] > 1)
    if not meetings.size:
        yield ring
        return
    every = np.roll(np.arange(len(keys)), -int(meetings[0]))
    pieces = np.split(every, (meetings - meetings[0])[1:])
    open_pieces: dict[int, NDArray[np.intp]] = {}  # by the point that each begins at, in order
    for piece in pieces:
        key = int(keys[piece[0]])
        if key in open_pieces:
            yield _of(ring, _closed(open_pieces, key))
        open_pieces[key] = piece
    yield _of(ring, [*open_pieces.values()])


def _closed(open_pieces: dict[int, NDArray[np.intp]], key: int) -> list[NDArray[np.intp]]:
    """The pieces from the point on, which are removed."""
    loop = []
    while key in open_pieces:
        loop.append(open_pieces.popitem()[1])
    return loop[::-1]


def _of(ring: Ring, pieces: list[NDArray[np.intp]]) -> Ring:
    members = np.concatenate(pieces)
    return Ring(ring.corners[members], ring.pixels[members])


def _parents(mask: PackedMask, rings: list[Ring]) -> dict[int, int]:
    """The exterior around each hole, by their places in the list.

    The run of set pixels to the left of a hole's first pixel begins at an edge of that exterior, or
    of another hole in it, which is further up or left and so known already.
    """
    holes = [index for index, ring in enumerate(rings) if ring.signed_area < 0]
    if not holes:
        return {}
    first = {index: _first_pixel(rings[index]) for index in holes}
    keys, owners = _vertical_edges(rings)
    parents: dict[int, int] = {}
    for index in sorted(holes, key=lambda hole: first[hole][::-1]):
        x, y = first[index]
        row = unpacked(mask.rows[y : y + 1, : x // 8 + 1], x)[0]
        unset = np.flatnonzero(~row)
        start = int(unset[-1]) + 1 if unset.size else 0
        owner = int(owners[np.searchsorted(keys, _edge_key(start, y), side="right") - 1])
        parents[index] = parents.get(owner, owner)
    return parents


def _first_pixel(hole: Ring) -> tuple[int, int]:
    """The leftmost pixel `(x, y)` in the hole's uppermost row."""
    place = np.lexsort((hole.corners[:, 0], hole.corners[:, 1]))[0]
    return int(hole.corners[place, 0]), int(hole.corners[place, 1])


def _vertical_edges(rings: list[Ring]) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """The vertical edges by column and upper end, as sorted keys, and the ring of each."""
    keys, owners = [], []
    for index, ring in enumerate(rings):
        ends = np.roll(ring.corners, -1, axis=0)
        is_vertical = ring.corners[:, 0] == ends[:, 0]
        top = np.minimum(ring.corners[is_vertical, 1], ends[is_vertical, 1])
        keys.append(_edge_key(ring.corners[is_vertical, 0].astype(np.int64), top))
        owners.append(np.full(len(top), index, dtype=np.intp))
    order = np.argsort(np.concatenate(keys))
    return np.concatenate(keys)[order], np.concatenate(owners)[order]


def _edge_key(x: Any, y: Any) -> Any:
    return (x << 32) + y
