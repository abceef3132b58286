"""What a model found in overlapping parts of a picture, put together: each thing once, whole, its
mask exact.

Two segments of one label are pieces of one thing if they agree where both views look. Agreement is
measured on the masks, inside that shared region alone, and things of more than two views are joined
through the chain. Everything works on windows of the masks' boxes: no full frame is made but where
a thing fills it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from math import ceil

import numpy as np
from numpy.typing import NDArray

from seg_pipeline.domain import BoolMask, Box, Mask, Segment
from seg_pipeline.imaging.masks import (
    area_inside,
    box_slices,
    boxes_meet,
    common_box,
    hull,
    mask_window,
    shared_area,
)

AGREEMENT = 0.5
"""Pieces whose IoU in the shared region is larger are of one thing."""

MOSTLY = 0.8
"""The share of an area from which on another view, or another thing, has what matters of it."""

REACH = 128
"""A piece is cut by its tile's border if it comes within this fraction of the tile's side: models
work at a lower resolution and seldom draw to the last pixel."""

OVERVIEW = -1

_SCORES = ("confidence", "predicted_iou", "stability_score")


@dataclass(frozen=True, eq=False)
class TileView:
    """A part of a picture, and the segments found in it; their masks are of the whole picture."""

    box: Box
    segments: Sequence[Segment]


@dataclass(frozen=True, eq=False)
class _Fragment:
    """A segment of one view, which looked at `seen`.

    `mask` is the picture's, the overview's own of its reduced picture; `coarse` is at the
    overview's resolution either way, None where nothing is left of it or there is no overview.
    """

    view: int
    seen: Box
    segment: Segment
    coarse: Mask | None = None

    @property
    def mask(self) -> Mask:
        return self.segment.mask

    @property
    def is_rough(self) -> bool:
        return self.view == OVERVIEW

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Pixels of the picture for one of the mask."""
        return (
            (
                self.seen.width / self.mask.resolution_wh[0],
                self.seen.height / self.mask.resolution_wh[1],
            )
            if self.is_rough
            else (1.0, 1.0)
        )

    @property
    def area(self) -> float:
        """In pixels of the picture."""
        scale_x, scale_y = self.scale_xy
        return self.mask.area * scale_x * scale_y

    @property
    def box(self) -> Box:
        """In the picture."""
        return _scaled(self.mask.box, self.scale_xy)


def merge(tiles: Sequence[TileView], overview: Sequence[Segment] = ()) -> list[Segment]:
    """The things in the picture, in the order in which the tiles, which cover it, and then the
    overview saw them.

    The segments of an `overview` are of the whole picture at a lower resolution; where a tile saw a
    piece of a thing, the piece counts. Dropped is what a better view did not confirm: an overview's
    segment that would fit into a tile, islands of another that would, and a piece that its tile's
    border cuts if most of it lies in another tile, or in a thing that the overview saw whole.
    """
    groups = [group for group in _grouped(_pieces(tiles, overview)) if _stands(group, tiles)]
    whole = [piece for group in groups for piece in group if piece.is_rough]
    return [_joined(group, tiles) for group in groups if not _is_doubtful(group, tiles, whole)]


class TileFragment:
    """A mask as far as a region shows it; its connected parts there are found when they are first
    asked for."""

    def __init__(self, mask: Mask, region: Box) -> None:
        self.box = common_box(mask.box, region)
        self.bits = mask_window(mask, self.box) if self.box else np.zeros((0, 0), np.bool_)
        self.area = int(np.count_nonzero(self.bits))

    @cached_property
    def _connected(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The number of each pixel's connected part, and the area of each."""
        import cv2

        _, numbers, stats, _ = cv2.connectedComponentsWithStats(
            self.bits.view(np.uint8), connectivity=8
        )
        return numbers.astype(np.int32, copy=False), stats[:, cv2.CC_STAT_AREA].astype(
            np.int32, copy=False
        )

    def area_touching(self, where: BoolMask, box: Box) -> int:
        """The area of the connected parts that have a pixel of `where`, which shows a box inside
        this one's."""
        assert self.box is not None
        numbers, areas = self._connected
        if len(areas) == 2:  # the background and one part
            return self.area
        touches = np.zeros(len(areas), dtype=np.bool_)
        touches[numbers[box_slices(box, self.box)][where]] = True
        return int(areas[touches].sum())


def agreement(one: TileFragment, other: TileFragment) -> float:
    """How far two masks agree in the region that both views see: 0 to 1.

    It is the IoU of what touches: a view may see as two what the other sees joined, as the ends of
    a U, so connected parts of either that have no pixel of the other do not count.
    """
    meeting = common_box(one.box, other.box) if one.box and other.box else None
    if meeting is None or one.box is None or other.box is None:
        return 0.0
    both = one.bits[box_slices(meeting, one.box)] & other.bits[box_slices(meeting, other.box)]
    shared = int(np.count_nonzero(both))
    iou = shared / (one.area + other.area - shared)
    if shared == 0 or iou > AGREEMENT:
        return iou
    return shared / (one.area_touching(both, meeting) + other.area_touching(both, meeting) - shared)


def upscaled(mask: Mask, resolution_wh: tuple[int, int]) -> Mask:
    """A mask of a reduced picture in the picture of `resolution_wh`, its edge interpolated
    (bilinear)."""
    import cv2

    scale_x, scale_y = (
        large / small for large, small in zip(resolution_wh, mask.resolution_wh, strict=True)
    )
    source = _with_rim(mask)
    target = _scaled(source, (scale_x, scale_y))
    centre_to_source = np.array([
        [1 / scale_x, 0, (target.x + 0.5) / scale_x - 0.5 - source.x],
        [0, 1 / scale_y, (target.y + 0.5) / scale_y - 0.5 - source.y],
    ])  # fmt: skip
    greys = cv2.warpAffine(
        mask_window(mask, source).astype(np.uint8) * np.uint8(255),
        centre_to_source,
        (target.width, target.height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    ).astype(np.uint8, copy=False)
    bits = np.greater(greys, 127, out=greys.view(np.bool_))
    larger = Mask.from_window(bits, (target.x, target.y), resolution_wh)
    assert larger is not None, (
        "every pixel of the reduced picture has one of the picture near its centre"
    )
    return larger


def sampled(mask: Mask, resolution_wh: tuple[int, int]) -> Mask | None:
    """The mask in a reduced picture of `resolution_wh`: its pixels at the centres of the reduced
    picture's. None if it has none there."""
    columns, rows = (
        ((np.arange(small) + 0.5) * large / small).astype(np.intp)
        for large, small in zip(mask.resolution_wh, resolution_wh, strict=True)
    )
    box = mask.box
    x, right = np.searchsorted(columns, (box.x, box.x + box.width))
    y, bottom = np.searchsorted(rows, (box.y, box.y + box.height))
    bits = mask.bits[np.ix_(rows[y:bottom] - box.y, columns[x:right] - box.x)]
    return Mask.from_window(bits, (int(x), int(y)), resolution_wh)


def _with_rim(mask: Mask) -> Box:
    """The mask's box and a pixel around it, inside the picture."""
    x, y = max(mask.box.x - 1, 0), max(mask.box.y - 1, 0)
    right = min(mask.box.x + mask.box.width + 1, mask.resolution_wh[0])
    bottom = min(mask.box.y + mask.box.height + 1, mask.resolution_wh[1])
    return Box(x, y, right - x, bottom - y)


def _pieces(tiles: Sequence[TileView], overview: Sequence[Segment]) -> list[_Fragment]:
    coarse_wh = overview[0].mask.resolution_wh if overview else None
    found = [
        _Fragment(index, view.box, segment, sampled(segment.mask, coarse_wh) if coarse_wh else None)
        for index, view in enumerate(tiles)
        for segment in view.segments
    ]
    everything = hull([view.box for view in tiles])
    return found + [_Fragment(OVERVIEW, everything, segment, segment.mask) for segment in overview]


def _grouped(pieces: Sequence[_Fragment]) -> list[list[_Fragment]]:
    """The pieces of each thing; the surest agreement joins first."""
    groups = {index: [index] for index in range(len(pieces))}
    group_of = list(range(len(pieces)))
    for _, one, other in sorted(_agreements(pieces), key=lambda found: (-found[0], *found[1:])):
        kept, gone = sorted((group_of[one], group_of[other]))
        if kept == gone or _rivals(
            [pieces[i] for i in groups[kept]], [pieces[i] for i in groups[gone]]
        ):
            continue
        for index in groups[gone]:
            group_of[index] = kept
        groups[kept] += groups.pop(gone)
    return [[pieces[index] for index in sorted(members)] for members in groups.values()]


def _rivals(one: Sequence[_Fragment], other: Sequence[_Fragment]) -> bool:
    """Whether two pieces, one of each, cannot be of one thing."""
    return any(
        _told_apart(a, b) if a.view == b.view else _outgrows(a, b) or _outgrows(b, a)
        for a, b in product(one, other)
    )


def _told_apart(one: _Fragment, other: _Fragment) -> bool:
    """Whether their view saw two things, one mostly on the other."""
    shared = shared_area(one.mask, other.mask)
    return shared > AGREEMENT * min(one.mask.area, other.mask.area)


def _outgrows(cut: _Fragment, whole: _Fragment) -> bool:
    """Whether a tile saw whole what is the lesser part of a piece that another tile's border cuts
    right there.

    Such a piece has parts elsewhere that its tile took for the same thing: joined to them, the
    thing would be lost.
    """
    if cut.is_rough or whole.is_rough or any(_beyond(whole)):
        return False
    if not any(common_box(beyond, whole.seen) for beyond in _beyond(cut)):
        return False
    shared = shared_area(cut.mask, whole.mask)
    return 0 < shared <= AGREEMENT * cut.mask.area


def _agreements(pieces: Sequence[_Fragment]) -> Iterator[tuple[float, int, int]]:
    """Agreement and indices of any two pieces that are of one thing."""
    by_view: dict[int, list[int]] = {}
    for index, piece in enumerate(pieces):
        by_view.setdefault(piece.view, []).append(index)
    for ours, theirs in combinations(by_view.values(), 2):
        shared = common_box(pieces[ours[0]].seen, pieces[theirs[0]].seen)
        if shared is not None:
            yield from _agreements_in(
                shared, [(i, pieces[i]) for i in ours], [(i, pieces[i]) for i in theirs]
            )


def _agreements_in(
    shared: Box, ours: Sequence[tuple[int, _Fragment]], theirs: Sequence[tuple[int, _Fragment]]
) -> Iterator[tuple[float, int, int]]:
    """Of two views, in the region that both see."""
    rough = next((piece for _, piece in (ours[0], theirs[0]) if piece.is_rough), None)
    some, others = ([(i, piece.segment.label, part) for i,
                     piece in pieces if (part := _part(piece, shared, rough))]
                    for pieces in (ours, theirs))  # fmt: skip
    boxes, other_boxes = ([part.box for *_, part in parts if part.box] for parts in (some, others))
    meet = boxes_meet(boxes, other_boxes)
    for i, j in np.argwhere(meet).tolist():
        (one, label, part), (other, other_label, other_part) = some[i], others[j]
        if label == other_label and (found := agreement(part, other_part)) > AGREEMENT:
            yield found, one, other


def _part(piece: _Fragment, shared: Box, rough: _Fragment | None) -> TileFragment | None:
    """What the region shows of a piece: at full resolution among tiles, at the overview's if one of
    them is of it."""
    if rough is None:
        part = TileFragment(piece.mask, shared)
    elif piece.coarse is None:
        return None
    else:
        part = TileFragment(
            piece.coarse, _scaled(shared, (1 / rough.scale_xy[0], 1 / rough.scale_xy[1]))
        )
    return part if part.area else None


def _stands(group: Sequence[_Fragment], tiles: Sequence[TileView]) -> bool:
    """Whether a tile saw a piece of it, or it is too large for any."""
    return any(not piece.is_rough for piece in group) or not _fits_a_tile(group[0].box, tiles)


def _is_doubtful(
    group: Sequence[_Fragment], tiles: Sequence[TileView], whole: Sequence[_Fragment]
) -> bool:
    """Whether a tile's border cuts it off, and most of it lies where another view saw something
    else or nothing."""
    if not _is_cut_off(group):
        return False
    looked = {piece.view for piece in group}
    area = MOSTLY * sum(piece.area for piece in group)
    others = (view.box for index, view in enumerate(tiles) if index not in looked)
    seen_better = any(
        sum(area_inside(piece.mask, box) for piece in group) >= area for box in others
    )
    return seen_better or any(all(_lies_in(piece, thing) for piece in group) for thing in whole)


def _is_cut_off(group: Sequence[_Fragment]) -> bool:
    """Whether a tile's border cuts it where none of its other views looks on."""
    return any(
        not any(common_box(beyond, other.seen) for other in group if other is not piece)
        for piece in group
        if not piece.is_rough
        for beyond in _beyond(piece)
    )


def _beyond(piece: _Fragment) -> Iterator[Box]:
    """The pixels beside the piece, across each border of its tile that cuts it."""
    seen, box = piece.seen, piece.mask.box
    width, height = piece.mask.resolution_wh
    reach_x, reach_y = seen.width // REACH, seen.height // REACH
    right, bottom = seen.x + seen.width, seen.y + seen.height
    if seen.x > 0 and box.x - seen.x <= reach_x:
        yield Box(seen.x - 1, box.y, 1, box.height)
    if seen.y > 0 and box.y - seen.y <= reach_y:
        yield Box(box.x, seen.y - 1, box.width, 1)
    if right < width and right - (box.x + box.width) <= reach_x:
        yield Box(right, box.y, 1, box.height)
    if bottom < height and bottom - (box.y + box.height) <= reach_y:
        yield Box(box.x, bottom, box.width, 1)


def _lies_in(piece: _Fragment, thing: _Fragment) -> bool:
    if piece.coarse is None or thing.coarse is None:
        return False
    return shared_area(piece.coarse, thing.coarse) >= MOSTLY * piece.coarse.area


def _joined(group: Sequence[_Fragment], tiles: Sequence[TileView]) -> Segment:
    """The pieces as one segment, its scores their mean weighed by area; a tile's lone piece as it
    is."""
    if len(group) == 1 and not group[0].is_rough:
        return group[0].segment
    scores = {name: _mean_score(group, name) for name in _SCORES}
    return Segment(_joined_mask(group, tiles), label=group[0].segment.label, **scores)


def _mean_score(group: Sequence[_Fragment], name: str) -> float | None:
    scores = [getattr(piece.segment, name) for piece in group]
    if any(score is None for score in scores):
        return None
    return float(np.average(scores, weights=[piece.area for piece in group]))


def _joined_mask(group: Sequence[_Fragment], tiles: Sequence[TileView]) -> Mask:
    """The tiles' pieces, and the overview's mask where no tile saw a piece."""
    fine = [piece for piece in group if not piece.is_rough]
    rough = [
        upscaled(_without_islands(piece, tiles), (piece.seen.width, piece.seen.height))
        for piece in group
        if piece.is_rough and not any(_holds(other.seen, piece.box) for other in fine)
    ]
    masks = [*rough, *(piece.mask for piece in fine)]
    box = hull([mask.box for mask in masks])
    bits = np.zeros((box.height, box.width), dtype=np.bool_)
    for mask in rough:
        bits[box_slices(mask.box, box)] |= mask.bits
    for piece in fine:
        bits[box_slices(common_box(box, piece.seen) or piece.mask.box, box)] = False
    for piece in fine:
        bits[box_slices(piece.mask.box, box)] |= piece.mask.bits
    return Mask.from_window(bits, (box.x, box.y), masks[0].resolution_wh) or masks[0]


def _without_islands(piece: _Fragment, tiles: Sequence[TileView]) -> Mask:
    """An overview's mask without its connected parts that are no larger than a tile, the largest
    part apart.

    Networks strew such parts over the picture, and a mask takes the memory of its box.
    """
    import cv2

    mask = piece.mask
    scale_x, scale_y = piece.scale_xy
    _, numbers, stats, _ = cv2.connectedComponentsWithStats(
        mask.bits.view(np.uint8), connectivity=8
    )
    kept = (stats[:, cv2.CC_STAT_WIDTH] * scale_x > max(view.box.width for view in tiles)) | (
        stats[:, cv2.CC_STAT_HEIGHT] * scale_y > max(view.box.height for view in tiles)
    )
    kept[1 + stats[1:, cv2.CC_STAT_AREA].argmax()] = True
    kept[0] = False  # what is around the parts
    return Mask.from_window(kept[numbers], (mask.box.x, mask.box.y), mask.resolution_wh) or mask


def _fits_a_tile(box: Box, tiles: Sequence[TileView]) -> bool:
    return any(_holds(view.box, box) for view in tiles)


def _holds(outer: Box, inner: Box) -> bool:
    return common_box(outer, inner) == inner


def _scaled(box: Box, scale_xy: tuple[float, float]) -> Box:
    """The box in a picture of another size, all of it."""
    x, y = int(box.x * scale_xy[0]), int(box.y * scale_xy[1])
    right, bottom = (
        ceil((box.x + box.width) * scale_xy[0]),
        ceil((box.y + box.height) * scale_xy[1]),
    )
    return Box(x, y, right - x, bottom - y)
