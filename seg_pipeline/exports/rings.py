"""Rings of polygons: fewer points, and several rings as one."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from seg_pipeline.exports.pictures import Export, ExportedSegment
from seg_pipeline.imaging.mask_rows import PackedMask
from seg_pipeline.imaging.outlines import Outline, Points, outlines

MAX_RINGS = 1000
"""The most parts and holes of a mask that one line joins; the largest stay."""

_SAMPLES = 512


def segment_outlines(export: Export, segment: ExportedSegment) -> list[Outline]:
    """The segment's parts, the largest first."""
    parts = outlines(PackedMask.read(export.mask_rows(segment)))
    return sorted(parts, key=lambda part: -part.exterior.signed_area)


def simplified(points: Points, tolerance: float) -> Points:
    """The ring with fewer points, none of the others farther than `tolerance` pixels from it.

    A ring of which fewer than three points would be left stays as it is (Douglas and Peucker 1973).
    """
    if not tolerance:
        return points
    import cv2

    fewer = cv2.approxPolyDP(np.ascontiguousarray(points), tolerance, True).reshape(-1, 2)
    return fewer.astype(np.int32) if len(fewer) >= 3 else points


def part_line(part: Outline, tolerance: float) -> Points:
    """A part through the centres of its outer pixels as one line, its holes joined to it.

    The line goes to each hole and back the same way, so that filling it leaves the hole empty.
    """
    line = simplified(part.exterior.pixels, tolerance)
    for hole in sorted(part.holes, key=lambda ring: ring.signed_area)[: MAX_RINGS - 1]:
        line = joined(line, simplified(hole.pixels, tolerance))
    return line


def mask_line(parts: Sequence[Outline], tolerance: float) -> Points:
    """A whole mask as one line: its parts from left to right, each joined to the next.

    ultralytics' own `merge_multi_segment` joins the parts of COCO's polygons like that.
    """
    kept = sorted(parts[:MAX_RINGS], key=lambda part: int(part.exterior.pixels[:, 0].min()))
    *lines, chain = (part_line(part, tolerance) for part in kept)
    for line in reversed(lines):
        chain = joined(line, chain)
    return chain


def joined(line: Points, other: Points) -> Points:
    """One closed line that leaves the first at its point nearest to the other, and comes back.

    Of long lines, 512 points are looked at.
    """
    at, other_at = _nearest(line, other)
    detour = (line[: at + 1], other[other_at:], other[: other_at + 1], line[at:])
    return np.concatenate(detour)


def at_least_three(points: Points) -> Points:
    """The ring of a mask of one or two pixels as readers want it, with points repeated."""
    return np.resize(points, (max(3, len(points)), 2))


def _nearest(line: Points, other: Points) -> tuple[int, int]:
    ours, theirs = _sample(len(line)), _sample(len(other))
    apart = line[ours][:, None].astype(np.float32) - other[theirs][None]
    near, far = np.unravel_index(int((apart**2).sum(axis=2).argmin()), (len(ours), len(theirs)))
    return int(ours[near]), int(theirs[far])


def _sample(count: int) -> NDArray[np.intp]:
    return np.linspace(0, count - 1, min(count, _SAMPLES)).astype(np.intp)


def closed(points: Points) -> Iterable[Points]:
    """The ring with its first point again at its end, in pieces of some ten thousand points."""
    every = np.concatenate([points, points[:1]])
    return (every[first : first + 10_000] for first in range(0, len(every), 10_000))
