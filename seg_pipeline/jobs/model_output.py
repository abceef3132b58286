"""What a model found in a picture: `segments.json`, and the mask PNGs with the pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from seg_pipeline.domain import Box, Mask, Segment
from seg_pipeline.store.serialization import OPTIONAL


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """What a model found in a picture of `resolution_wh`, and how many seconds it took."""

    model: str
    weights_sha256: str
    resolution_wh: tuple[int, int]
    seconds: float
    segments: Sequence[Segment]


@dataclass(frozen=True)
class FoundSegment:
    """A segment without its pixels; a mask is its own if box and area agree."""

    label: str | None
    confidence: float | None
    predicted_iou: float | None
    stability_score: float | None
    bbox: Box
    area: int
    prompt: Annotated[int | None, OPTIONAL] = None
    name: Annotated[str | None, OPTIONAL] = None
    parent: Annotated[int | None, OPTIONAL] = None

    @classmethod
    def of(cls, segment: Segment, parent: int | None = None) -> "FoundSegment":
        """What is kept of a segment."""
        return cls(
            segment.label,
            segment.confidence,
            segment.predicted_iou,
            segment.stability_score,
            segment.mask.box,
            segment.mask.area,
            prompt=segment.prompt,
            name=segment.name,
            parent=parent,
        )

    def with_mask(self, mask: Mask, before: Sequence[Segment] = ()) -> Segment:
        """The segment with its mask, its parent among those before it.

        Raises ValueError if the mask is another segment's.
        """
        if (self.bbox, self.area) != (mask.box, mask.area):
            raise ValueError("it is not the one that segments.json describes")
        if self.parent is not None and not 0 <= self.parent < len(before):
            raise ValueError(f"no larger segment has the place {self.parent} of its parent")
        scores = (self.confidence, self.predicted_iou, self.stability_score)
        parent = None if self.parent is None else before[self.parent]
        return Segment(mask, self.label, *scores, self.prompt, self.name, parent)


@dataclass(frozen=True)
class StoredOutput:
    """`segments.json`: what was found, without the pixels."""

    model: str
    weights_sha256: str
    resolution_wh: tuple[int, int]
    seconds: float
    segments: tuple[FoundSegment, ...]

    @classmethod
    def of(cls, found: ModelOutput) -> "StoredOutput":
        """What is kept of a model's output."""
        segments = tuple(map(FoundSegment.of, found.segments, parent_places(found.segments)))
        return cls(found.model, found.weights_sha256, found.resolution_wh, found.seconds, segments)

    def with_masks(self, masks: Sequence[Mask]) -> ModelOutput:
        """The output with its masks, in their order. Raises ValueError if they are other masks."""
        if len(self.segments) != len(masks):
            raise ValueError(
                f"segments.json names {len(self.segments)} segments,"
                f" but there are {len(masks)} masks"
            )
        segments: list[Segment] = []
        for segment, mask in zip(self.segments, masks, strict=True):
            segments.append(_restored(segments, segment, mask))
        return ModelOutput(
            self.model, self.weights_sha256, self.resolution_wh, self.seconds, segments
        )


def parent_places(segments: Sequence[Segment]) -> list[int | None]:
    """The place of each segment's parent; of one that is missing its own parent's, and so on."""
    places = {id(segment): place for place, segment in enumerate(segments)}
    return [_parent_place(segment, places) for segment in segments]


def _parent_place(segment: Segment, places: dict[int, int]) -> int | None:
    parent = segment.parent
    while parent is not None and id(parent) not in places:
        parent = parent.parent
    return None if parent is None else places[id(parent)]


def _restored(before: Sequence[Segment], segment: FoundSegment, mask: Mask) -> Segment:
    try:
        return segment.with_mask(mask, before)
    except ValueError as error:
        raise ValueError(f"mask {len(before)} is wrong: {error}") from error
