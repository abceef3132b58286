"""What a model found in a picture: `segments.json`, and the mask PNGs with the pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

from seg_pipeline.domain import Box, Mask, Segment


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

    @classmethod
    def of(cls, segment: Segment) -> "FoundSegment":
        """What is kept of a segment."""
        scores = (segment.confidence, segment.predicted_iou, segment.stability_score)
        return cls(segment.label, *scores, segment.mask.box, segment.mask.area)

    def with_mask(self, mask: Mask) -> Segment:
        """The segment with its mask. Raises ValueError if the mask is another segment's."""
        if (self.bbox, self.area) != (mask.box, mask.area):
            raise ValueError("it is not the one that segments.json describes")
        return Segment(mask, self.label, self.confidence, self.predicted_iou, self.stability_score)


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
        segments = tuple(FoundSegment.of(segment) for segment in found.segments)
        return cls(found.model, found.weights_sha256, found.resolution_wh, found.seconds, segments)

    def with_masks(self, masks: Sequence[Mask]) -> ModelOutput:
        """The output with its masks, in their order. Raises ValueError if they are other masks."""
        if len(self.segments) != len(masks):
            raise ValueError(
                f"segments.json names {len(self.segments)} segments,"
                f" but there are {len(masks)} masks"
            )
        segments = [
            _restored(index, segment, mask)
            for index, (segment, mask) in enumerate(zip(self.segments, masks, strict=True))
        ]
        return ModelOutput(
            self.model, self.weights_sha256, self.resolution_wh, self.seconds, segments
        )


def _restored(index: int, segment: FoundSegment, mask: Mask) -> Segment:
    try:
        return segment.with_mask(mask)
    except ValueError as error:
        raise ValueError(f"mask {index} is wrong: {error}") from error
