"""Gives masks the labels of detections that they agree with, and the tree of what contains what."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from seg_pipeline.domain import Segment
from seg_pipeline.imaging.masks import order_by_area
from seg_pipeline.imaging.overlaps import (
    Areas,
    PackedBits,
    areas_of,
    ious,
    shared_areas,
    shared_areas_within,
)

INSIDE = 0.9
"""The share of a mask that lies in another one if that contains it."""

NO_ONE = -1


@dataclass(frozen=True)
class Naming:
    """How masks are named. `distinct` leaves out near duplicates and nested copies."""

    label_iou: float = 0.5
    distinct: bool = False
    duplicate_iou: float = 0.8


@dataclass(frozen=True, eq=False)
class _Named:
    """The masks, largest first, and what is known of them by their place."""

    segments: Sequence[Segment]
    things: list[int]  # the detection of each, or NO_ONE
    agreement: NDArray[np.float64]  # the IoU with it, or 0
    areas: Areas
    shared: Areas

    def take(self, places: Sequence[int]) -> "_Named":
        index = np.array(places, dtype=np.int64)
        return _Named(
            [self.segments[place] for place in places],
            [self.things[place] for place in places],
            self.agreement[index],
            self.areas[index],
            self.shared[np.ix_(index, index)],
        )


def name_masks(
    masks: Sequence[Segment], detections: Sequence[Segment], naming: Naming
) -> list[Segment]:
    """The masks, largest first, with label, confidence, name and parent.

    A mask gets the label of the detection with which it has the greatest IoU, if that is at least
    `label_iou`. Its name is that of the detected thing, such as `dog 2`: masks of one thing share
    it. Its parent is the smallest mask around it. Masks keep their own scores.
    """
    ordered = order_by_area(masks)
    if not ordered:
        return []
    packed = [PackedBits.of(segment.mask) for segment in ordered]
    things, agreement = _agreeing(packed, detections, naming.label_iou)
    areas = areas_of(packed)
    least = np.minimum(
        INSIDE * np.minimum(areas[:, None], areas),
        naming.duplicate_iou * np.maximum(areas[:, None], areas),
    )
    found = _Named(ordered, things, agreement, areas, shared_areas_within(packed, least))
    if naming.distinct:
        found = found.take(_distinct(found, naming.duplicate_iou))
    return _with_names(found, detections)


def _agreeing(
    packed: Sequence[PackedBits], detections: Sequence[Segment], label_iou: float
) -> tuple[list[int], NDArray[np.float64]]:
    """The detection that each mask agrees with, and their IoU."""
    if not detections:
        return [NO_ONE] * len(packed), np.zeros(len(packed))
    theirs = [PackedBits.of(each.mask) for each in detections]
    areas, their_areas = areas_of(packed), areas_of(theirs)
    least = label_iou * np.maximum(areas[:, None], their_areas)
    agreement = ious(shared_areas(packed, theirs, least), areas, their_areas)
    best, most = agreement.argmax(axis=1), agreement.max(axis=1)
    agrees = (most >= label_iou) & (most > 0)
    return np.where(agrees, best, NO_ONE).tolist(), np.where(agrees, most, 0)


def _distinct(found: _Named, duplicate_iou: float) -> list[int]:
    """The places of the masks without near duplicates, and with one mask for each thing.

    Of two masks the one stays that agrees better with its thing, or is surer of itself.
    """
    alike = ious(found.shared, found.areas, found.areas) >= duplicate_iou
    kept: list[int] = []
    for place in _best_first(found):
        thing = found.things[place]
        is_copy = thing != NO_ONE and any(found.things[each] == thing for each in kept)
        if not is_copy and not any(alike[place, each] for each in kept):
            kept.append(place)
    return sorted(kept)


def _best_first(found: _Named) -> list[int]:
    def worth(place: int) -> tuple[float, float]:
        return float(found.agreement[place]), found.segments[place].predicted_iou or 0.0

    return sorted(range(len(found.segments)), key=worth, reverse=True)


def _with_names(found: _Named, detections: Sequence[Segment]) -> list[Segment]:
    names = _names_of(found.things, detections)
    named: list[Segment] = []
    parents = _parents(found.areas, found.shared)
    for segment, thing, parent in zip(found.segments, found.things, parents, strict=True):
        label = detections[thing] if thing != NO_ONE else None
        named.append(
            replace(
                segment,
                label=label.label if label else None,
                confidence=label.confidence if label else None,
                name=names.get(thing),
                parent=named[parent] if parent is not None else None,
            )
        )
    return named


def _names_of(things: Sequence[int], detections: Sequence[Segment]) -> dict[int, str]:
    """The name of each thing: its label, and its number among those of the label."""
    numbers: Counter[str] = Counter()
    names: dict[int, str] = {}
    for thing in things:
        if thing != NO_ONE and thing not in names:
            label = detections[thing].label or "object"
            numbers[label] += 1
            names[thing] = f"{label} {numbers[label]}"
    return names


def _parents(areas: Areas, shared: Areas) -> Iterator[int | None]:
    """The place of the smallest mask around each, all of them larger or before it."""
    for place, area in enumerate(areas.tolist()):
        around = np.flatnonzero(shared[place, :place] >= INSIDE * area)
        yield int(around[-1]) if len(around) else None
