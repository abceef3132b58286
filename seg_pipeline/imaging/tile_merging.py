"""Merges what a model found in overlapping tiles: each object once, whole, its mask exact.

Two segments of one label are fragments of one object if they agree where both views overlap.
Agreement is measured on the masks, only inside the region that both views share. Objects in more
than two views are joined through the chain. Everything works on windows of the masks' boxes: no
full frame is made unless an object fills it.
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
"""Fragments with a larger IoU in the shared region are of one object."""

MOSTLY = 0.8
"""The share of an area from which on another view or object covers it."""

REACH = 128
"""How close a fragment comes to its tile's border to be cut by it, as a fraction of the side.

Models work at a lower resolution and seldom draw to the last pixel.
"""

OVERVIEW = -1


@dataclass(frozen=True, eq=False)
class TileView:
    """A part of a picture and its segments, whose masks are of the whole picture."""

    box: Box
    segments: Sequence[Segment]


@dataclass(frozen=True, eq=False)
class _Fragment:
    """A segment of one view, whose region is `seen`.

    `mask` is of the picture; an overview's is of its reduced picture. `coarse` is always at the
    overview's resolution. It is None if no pixel of the mask is left there, or without an overview.
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
        """The area in pixels of the picture."""
        scale_x, scale_y = self.scale_xy
        return self.mask.area * scale_x * scale_y

    @property
    def box(self) -> Box:
        """The box in the picture."""
        return _scaled(self.mask.box, self.scale_xy)


def merge(tiles: Sequence[TileView], overview: Sequence[Segment] = ()) -> list[Segment]:
    """The objects of a picture from the segments of tiles that cover it.

    They are in the order of the tiles, then of the overview. The segments of an `overview` are of
    the whole picture at a lower resolution. Where a tile has a fragment of an object, the fragment
    counts.

    Segments that a better view does not confirm are dropped. These are an overview's segment that
    would fit into a tile, and small islands of a larger one. A fragment that its
    tile's border cuts is dropped too, if another tile has most of it, or an object that the
    overview has whole.
    """
    groups = [
        group for group in _grouped(_fragments(tiles, overview)) if _is_confirmed(group, tiles)
    ]
    whole = [fragment for group in groups for fragment in group if fragment.is_rough]
    return [
        _merge_fragments(group, tiles) for group in groups if not _is_doubtful(group, tiles, whole)
    ]


class TileFragment:
    """The part of a mask inside a region. Its connected parts are computed on first use."""

    def __init__(self, mask: Mask, region: Box) -> None:
        self.box = common_box(mask.box, region)
        self.bits = mask_window(mask, self.box) if self.box else np.zeros((0, 0), np.bool_)
        self.area = int(np.count_nonzero(self.bits))

    @cached_property
    def _connected(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The number of each pixel's connected part, and the area of each part."""
        import cv2

        _, numbers, stats, _ = cv2.connectedComponentsWithStats(
            self.bits.view(np.uint8), connectivity=8
        )
        return numbers.astype(np.int32, copy=False), stats[:, cv2.CC_STAT_AREA].astype(
            np.int32, copy=False
        )

    def area_touching(self, where: BoolMask, box: Box) -> int:
        """The area of the connected parts that have a pixel of `where`.

        `where` shows a box inside this one's.
        """
        assert self.box is not None
        numbers, areas = self._connected
        if len(areas) == 2:  # the background and one part
            return self.area
        touches = np.zeros(len(areas), dtype=np.bool_)
        touches[numbers[box_slices(box, self.box)][where]] = True
        return int(areas[touches].sum())


def agreement(one: TileFragment, other: TileFragment) -> float:
    """How far two masks agree in the region of both views: 0 to 1.

    It is the IoU of the parts that touch. One view may separate what the other shows joined, such
    as the ends of a U. So connected parts of either mask without a pixel of the other do not count.
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
    """A mask of a reduced picture in the picture of `resolution_wh`, bilinearly interpolated."""
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
    """The mask in a reduced picture of `resolution_wh`, sampled at its pixels' centres.

    None if no pixel is set there.
    """
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
    """The mask's box with a rim of one pixel, inside the picture."""
    x, y = max(mask.box.x - 1, 0), max(mask.box.y - 1, 0)
    right = min(mask.box.x + mask.box.width + 1, mask.resolution_wh[0])
    bottom = min(mask.box.y + mask.box.height + 1, mask.resolution_wh[1])
    return Box(x, y, right - x, bottom - y)


def _fragments(tiles: Sequence[TileView], overview: Sequence[Segment]) -> list[_Fragment]:
    coarse_wh = overview[0].mask.resolution_wh if overview else None
    fragments = [
        _Fragment(index, view.box, segment, sampled(segment.mask, coarse_wh) if coarse_wh else None)
        for index, view in enumerate(tiles)
        for segment in view.segments
    ]
    everything = hull([view.box for view in tiles])
    return fragments + [
        _Fragment(OVERVIEW, everything, segment, segment.mask) for segment in overview
    ]


def _grouped(fragments: Sequence[_Fragment]) -> list[list[_Fragment]]:
    """The fragments of each object. The best agreement joins first."""
    groups = {index: [index] for index in range(len(fragments))}
    group_of = list(range(len(fragments)))
    for _, one, other in sorted(_agreements(fragments), key=lambda pair: (-pair[0], *pair[1:])):
        kept, gone = sorted((group_of[one], group_of[other]))
        if kept == gone or _rivals(
            [fragments[i] for i in groups[kept]], [fragments[i] for i in groups[gone]]
        ):
            continue
        for index in groups[gone]:
            group_of[index] = kept
        groups[kept] += groups.pop(gone)
    return [[fragments[index] for index in sorted(members)] for members in groups.values()]


def _rivals(one: Sequence[_Fragment], other: Sequence[_Fragment]) -> bool:
    """Whether two fragments, one of each group, cannot be of one object."""
    return any(
        _are_distinct(a, b) if a.view == b.view else _outgrows(a, b) or _outgrows(b, a)
        for a, b in product(one, other)
    )


def _are_distinct(one: _Fragment, other: _Fragment) -> bool:
    """Whether their view separates them as two objects, one mostly on the other."""
    shared = shared_area(one.mask, other.mask)
    return shared > AGREEMENT * min(one.mask.area, other.mask.area)


def _outgrows(cut: _Fragment, whole: _Fragment) -> bool:
    """Whether `whole`, uncut in its tile, is the lesser part of `cut`, which a border cuts there.

    The tile of `cut` took other parts for the same object. If they were joined, the whole object
    would be lost.
    """
    if cut.is_rough or whole.is_rough or any(_beyond(whole)):
        return False
    if not any(common_box(beyond, whole.seen) for beyond in _beyond(cut)):
        return False
    shared = shared_area(cut.mask, whole.mask)
    return 0 < shared <= AGREEMENT * cut.mask.area


def _agreements(fragments: Sequence[_Fragment]) -> Iterator[tuple[float, int, int]]:
    """The agreement and indices of any two fragments of one object."""
    by_view: dict[int, list[int]] = {}
    for index, fragment in enumerate(fragments):
        by_view.setdefault(fragment.view, []).append(index)
    for ours, theirs in combinations(by_view.values(), 2):
        shared = common_box(fragments[ours[0]].seen, fragments[theirs[0]].seen)
        if shared is not None:
            yield from _agreements_in(
                shared, [(i, fragments[i]) for i in ours], [(i, fragments[i]) for i in theirs]
            )


def _agreements_in(
    shared: Box, ours: Sequence[tuple[int, _Fragment]], theirs: Sequence[tuple[int, _Fragment]]
) -> Iterator[tuple[float, int, int]]:
    """The same for two views, in the region that both share."""
    rough = next((fragment for _, fragment in (ours[0], theirs[0]) if fragment.is_rough), None)
    some, others = ([(i, fragment.segment.label, part) for i,
                     fragment in fragments if (part := _part(fragment, shared, rough))]
                    for fragments in (ours, theirs))  # fmt: skip
    boxes, other_boxes = ([part.box for *_, part in parts if part.box] for parts in (some, others))
    meet = boxes_meet(boxes, other_boxes)
    for i, j in np.argwhere(meet).tolist():
        (one, label, part), (other, other_label, other_part) = some[i], others[j]
        if label == other_label and (iou := agreement(part, other_part)) > AGREEMENT:
            yield iou, one, other


def _part(fragment: _Fragment, shared: Box, rough: _Fragment | None) -> TileFragment | None:
    """A fragment's part in the region; None if it is empty.

    It is at full resolution among tiles, and at the overview's if one of the two is the overview's.
    """
    if rough is None:
        part = TileFragment(fragment.mask, shared)
    elif fragment.coarse is None:
        return None
    else:
        part = TileFragment(
            fragment.coarse, _scaled(shared, (1 / rough.scale_xy[0], 1 / rough.scale_xy[1]))
        )
    return part if part.area else None


def _is_confirmed(group: Sequence[_Fragment], tiles: Sequence[TileView]) -> bool:
    """Whether a tile has a fragment of the object, or the object is too large for any tile."""
    return any(not fragment.is_rough for fragment in group) or not _fits_a_tile(group[0].box, tiles)


def _is_doubtful(
    group: Sequence[_Fragment], tiles: Sequence[TileView], whole: Sequence[_Fragment]
) -> bool:
    """Whether a border cuts the object off, and another view covers most of it differently."""
    if not _is_cut_off(group):
        return False
    own_views = {fragment.view for fragment in group}
    area = MOSTLY * sum(fragment.area for fragment in group)
    others = (view.box for index, view in enumerate(tiles) if index not in own_views)
    is_covered = any(
        sum(area_inside(fragment.mask, box) for fragment in group) >= area for box in others
    )
    return is_covered or any(
        all(_lies_in(fragment, other) for fragment in group) for other in whole
    )


def _is_cut_off(group: Sequence[_Fragment]) -> bool:
    """Whether a tile's border cuts the object where none of its other views continues it."""
    return any(
        not any(common_box(beyond, other.seen) for other in group if other is not fragment)
        for fragment in group
        if not fragment.is_rough
        for beyond in _beyond(fragment)
    )


def _beyond(fragment: _Fragment) -> Iterator[Box]:
    """The pixels beside the fragment, across each border of its tile that cuts it."""
    seen, box = fragment.seen, fragment.mask.box
    width, height = fragment.mask.resolution_wh
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


def _lies_in(fragment: _Fragment, other: _Fragment) -> bool:
    if fragment.coarse is None or other.coarse is None:
        return False
    return shared_area(fragment.coarse, other.coarse) >= MOSTLY * fragment.coarse.area


def _merge_fragments(group: Sequence[_Fragment], tiles: Sequence[TileView]) -> Segment:
    """The fragments as one segment, with mean scores weighted by area.

    A tile's single fragment stays as it is.
    """
    if len(group) == 1 and not group[0].is_rough:
        return group[0].segment
    return Segment(
        _merged_mask(group, tiles),
        label=group[0].segment.label,
        confidence=_mean_score(group, "confidence"),
        predicted_iou=_mean_score(group, "predicted_iou"),
        stability_score=_mean_score(group, "stability_score"),
    )


def _mean_score(group: Sequence[_Fragment], name: str) -> float | None:
    scores = [getattr(fragment.segment, name) for fragment in group]
    if any(score is None for score in scores):
        return None
    return float(np.average(scores, weights=[fragment.area for fragment in group]))


def _merged_mask(group: Sequence[_Fragment], tiles: Sequence[TileView]) -> Mask:
    """The tiles' fragments, and the overview's mask where no tile has a fragment."""
    fine = [fragment for fragment in group if not fragment.is_rough]
    rough = [
        upscaled(_without_islands(fragment, tiles), (fragment.seen.width, fragment.seen.height))
        for fragment in group
        if fragment.is_rough and not any(_holds(other.seen, fragment.box) for other in fine)
    ]
    masks = [*rough, *(fragment.mask for fragment in fine)]
    box = hull([mask.box for mask in masks])
    bits = np.zeros((box.height, box.width), dtype=np.bool_)
    for mask in rough:
        bits[box_slices(mask.box, box)] |= mask.bits
    for fragment in fine:
        bits[box_slices(common_box(box, fragment.seen) or fragment.mask.box, box)] = False
    for fragment in fine:
        bits[box_slices(fragment.mask.box, box)] |= fragment.mask.bits
    return Mask.from_window(bits, (box.x, box.y), masks[0].resolution_wh) or masks[0]


def _without_islands(fragment: _Fragment, tiles: Sequence[TileView]) -> Mask:
    """An overview's mask without the connected parts that are no larger than a tile.

    The largest part always stays. Networks scatter small parts over the picture, and a mask takes
    the memory of its box.
    """
    import cv2

    mask = fragment.mask
    scale_x, scale_y = fragment.scale_xy
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
    """The box in a picture of another size, rounded outward."""
    x, y = int(box.x * scale_xy[0]), int(box.y * scale_xy[1])
    right, bottom = (
        ceil((box.x + box.width) * scale_xy[0]),
        ceil((box.y + box.height) * scale_xy[1]),
    )
    return Box(x, y, right - x, bottom - y)
