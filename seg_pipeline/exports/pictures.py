"""What an export is made of: a finished job's answer, and its files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from seg_pipeline.domain import Box
from seg_pipeline.errors import ImageError, StoreError
from seg_pipeline.exports.categories import UNLABELLED
from seg_pipeline.imaging.mask_rows import MaskRows

ORIGINAL = "original.webp"
OVERLAY = "overlay.webp"


class Files(Protocol):
    """Reads a job's files, by their names below `assets/{uuid}/`."""

    def get(self, name: str) -> bytes:
        """The whole file. Raises ObjectNotFound."""
        ...

    def stream(self, name: str) -> Iterator[bytes]:
        """The file in pieces. Raises ObjectNotFound at the call."""
        ...


@dataclass(frozen=True, kw_only=True)
class ExportedSegment:
    """A segment, and the names of its files."""

    segment_id: int
    box: Box
    area: int
    label: str
    confidence: float | None
    predicted_iou: float | None
    stability_score: float | None
    mask_name: str
    crop_name: str
    name: str | None = None
    parent: int | None = None

    @property
    def score(self) -> float | None:
        """The score that ranks the segments of its model."""
        return self.confidence if self.confidence is not None else self.predicted_iou

    @property
    def scores(self) -> dict[str, float]:
        """The scores that the model gave, by their names in answers."""
        every = {
            "confidence": self.confidence,
            "predicted_iou": self.predicted_iou,
            "stability_score": self.stability_score,
        }
        return {name: score for name, score in every.items() if score is not None}

    @property
    def naming(self) -> dict[str, str | int]:
        """What named masks have: the thing's name, and the `segment_id` of what it lies in."""
        every = {"name": self.name, "parent": self.parent}
        return {key: value for key, value in every.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class ExportedPicture:
    """A picture and its segments, largest first, as `GET /jobs/{uuid}` tells of them."""

    uuid: str
    model: str
    resolution_wh: tuple[int, int]
    completed_at: datetime
    segments: tuple[ExportedSegment, ...]
    answer: Mapping[str, Any]
    """The answer itself, as JSON's own types."""
    name: str | None = None
    """What whoever sent the picture calls it."""

    @classmethod
    def of(cls, answer: Mapping[str, Any], name: str | None = None) -> Self:
        """The picture of a completed job's answer."""
        return cls(
            uuid=answer["uuid"],
            model=answer["model"],
            resolution_wh=(answer["width"], answer["height"]),
            completed_at=datetime.fromisoformat(answer["completed_at"]),
            segments=tuple(_segment(answer["uuid"], each) for each in answer["segments"]),
            answer=answer,
            name=name,
        )

    @property
    def file_name(self) -> str:
        """The name of the original in datasets, which no other job's has."""
        return f"{self.uuid}.webp"

    @property
    def shown_name(self) -> str:
        """The picture's name in documents that come without it."""
        return self.name or self.file_name

    @property
    def labels(self) -> list[str]:
        """The labels of its segments, each once, in alphabetical order."""
        return sorted({segment.label for segment in self.segments})


@dataclass(frozen=True)
class Export:
    """One export: of which picture, with which files, and the options of its format.

    `tolerance` is how far a simplified polygon may lie from the exact one, in pixels; None leaves
    it to the format. `segment_id` is of formats that hold one segment.
    """

    picture: ExportedPicture
    files: Files
    tolerance: float | None = None
    segment_id: int = 0

    def mask_rows(self, segment: ExportedSegment) -> MaskRows:
        """The rows of the segment's mask. StoreError if its file is not the segment's."""
        width, height = self.picture.resolution_wh
        try:
            rows = MaskRows(self.files.get(segment.mask_name), width * height)
        except ImageError as error:
            raise StoreError(f"{segment.mask_name} cannot be read: {error}") from error
        if rows.resolution_wh != (width, height):
            raise StoreError(f"{segment.mask_name} is not as large as the picture.")
        return rows


def _segment(uuid: str, entry: Mapping[str, Any]) -> ExportedSegment:
    return ExportedSegment(
        segment_id=entry["segment_id"],
        box=Box(**entry["bbox"]),
        area=entry["area"],
        label=entry["label"] or UNLABELLED,
        confidence=entry["confidence"],
        predicted_iou=entry["predicted_iou"],
        stability_score=entry["stability_score"],
        mask_name=_name(uuid, entry["mask_url"]),
        crop_name=_name(uuid, entry["crop_url"]),
        name=entry.get("name"),
        parent=entry.get("parent"),
    )


def _name(uuid: str, url: str) -> str:
    """The file's name in the job's folder, wherever that is served."""
    return urlsplit(url).path.rpartition(f"/{uuid}/")[2]
