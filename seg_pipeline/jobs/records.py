"""What is kept of a job that has ended: `result.json`.

It names files by their keys. `answers` turns keys into addresses: these depend on who asks.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import Field

from seg_pipeline.domain import (
    Box,
    Job,
    JobStatus,
    Mask,
    Moment,
    NotNegative,
    Positive,
    Segment,
)
from seg_pipeline.errors import SegPipelineError
from seg_pipeline.imaging.masks import center_point, contains, interior_point, mask_to_rle
from seg_pipeline.jobs.model_output import ModelOutput, parent_places
from seg_pipeline.prompts import Values
from seg_pipeline.store import keys
from seg_pipeline.store.serialization import OPTIONAL, write

OUTCOMES = (JobStatus.COMPLETED, JobStatus.FAILED)
"""How a job may end."""


def _told(text: str, **limits: Any) -> Any:
    """What clients are told of a field.

    The limits hold for what is written, and not for what is read: every stored result must stay
    readable.
    """
    return Field(description=text, json_schema_extra=limits)


@dataclass(frozen=True)
class Timing:
    """When a job was worked on, and the seconds that each stage took."""

    started_at: datetime
    completed_at: datetime
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """A pixel."""

    x: NotNegative
    y: NotNegative


@dataclass(frozen=True)
class RunLengths:
    """A mask as run lengths down the columns."""

    size: Annotated[
        tuple[Positive, Positive], Field(description="Height and width of the picture.")
    ]
    counts: Annotated[str, Field(json_schema_extra={"minLength": 1})]


@dataclass(frozen=True)
class FailureReason:
    """Why the job failed."""

    code: Annotated[str, _told("A word to switch on.", pattern="^[a-z][a-z_]*$")]
    message: Annotated[str, _told("One sentence for people.", minLength=1)]


@dataclass(frozen=True, kw_only=True)
class SegmentRecord:
    """One thing found, with the keys of its files.

    `interior_point` is there only if the centre is not in the mask. `rle` is there only if the job
    requested it. `name`, `category` and `parent` are of named masks, `prompt` of prompts' boxes.
    """

    segment_id: int
    mask_key: str
    bbox: Box
    area: int
    stability_score: float | None = None
    predicted_iou: float | None = None
    center_point: Point
    interior_point: Annotated[Point | None, OPTIONAL] = None
    area_percent: float
    label: str | None = None
    confidence: float | None = None
    crop_key: str
    rle: Annotated[RunLengths | None, OPTIONAL] = None
    prompt: Annotated[int | None, OPTIONAL] = None
    name: Annotated[str | None, OPTIONAL] = None
    category: Annotated[str | None, OPTIONAL] = None
    parent: Annotated[int | None, OPTIONAL] = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """`result.json`: how a job ended, completed or failed, and until when its files are kept."""

    uuid: str
    status: JobStatus
    model: str
    weights_sha256: str | None = None
    width: int | None = None
    height: int | None = None
    resize: int | None = None
    parameters: Annotated[Mapping[str, Values], OPTIONAL] = field(default_factory=dict)
    original_key: str | None = None
    overlay_key: str | None = None
    segments: tuple[SegmentRecord, ...] = ()
    accepted_at: Moment
    started_at: Moment
    completed_at: Moment
    expires_at: Moment
    seconds: Mapping[str, float] = field(default_factory=dict)
    error: FailureReason | None = None

    def __post_init__(self) -> None:
        if self.status not in OUTCOMES:
            raise ValueError(f"a job ends completed or failed, not {self.status}")

    @property
    def expiry_key(self) -> str:
        """The marker of its expiry; the time is rounded up, so that nothing is deleted early."""
        return keys.expiry(math.ceil(self.expires_at.timestamp()), self.uuid)

    @property
    def files_of_segments(self) -> set[str]:
        """The keys of all masks and cut-outs."""
        return {key for each in self.segments for key in (each.mask_key, each.crop_key)}


@dataclass(frozen=True)
class StoredResult:
    """A result, and the bytes that it is stored as."""

    result: Result
    data: bytes

    @classmethod
    def of(cls, result: Result) -> Self:
        """A result that is yet to be stored."""
        return cls(result, write(result))

    @property
    def sha256(self) -> str:
        """Names this very result in its delivery.

        It covers the keys that were written, known to this version or not. Otherwise a newer
        version would have every result told again.
        """
        document = json.loads(self.data)
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def completed_result(job: Job, found: ModelOutput, timing: Timing) -> Result:
    """The result of a completed job; its files must be stored before it is."""
    width, height = found.resolution_wh
    return Result(
        uuid=job.uuid,
        status=JobStatus.COMPLETED,
        model=job.model,
        weights_sha256=found.weights_sha256,
        width=width,
        height=height,
        resize=job.resize,
        parameters=dict(job.parameters),
        original_key=keys.original(job.uuid),
        overlay_key=keys.overlay(job.uuid),
        segments=tuple(
            _segment_record(job, index, segment, parent)
            for index, (segment, parent) in enumerate(
                zip(found.segments, parent_places(found.segments), strict=True)
            )
        ),
        accepted_at=job.accepted_at,
        started_at=timing.started_at,
        completed_at=timing.completed_at,
        expires_at=job.expires_at(timing.completed_at),
        seconds=_rounded_seconds(timing),
    )


def failed_result(job: Job, error: SegPipelineError, timing: Timing) -> Result:
    """The result of a failed job: no files, and the reason."""
    return Result(
        uuid=job.uuid,
        status=JobStatus.FAILED,
        model=job.model,
        resize=job.resize,
        parameters=dict(job.parameters),
        accepted_at=job.accepted_at,
        started_at=timing.started_at,
        completed_at=timing.completed_at,
        expires_at=job.expires_at(timing.completed_at),
        seconds=_rounded_seconds(timing),
        error=FailureReason(error.code, str(error)),
    )


def _segment_record(
    job: Job, index: int, segment: Segment, parent: int | None = None
) -> SegmentRecord:
    mask = segment.mask
    width, height = mask.resolution_wh
    return SegmentRecord(
        segment_id=index,
        mask_key=keys.mask(job.uuid, index),
        bbox=mask.box,
        area=mask.area,
        stability_score=_rounded(segment.stability_score),
        predicted_iou=_rounded(segment.predicted_iou),
        center_point=Point(*center_point(mask)),
        interior_point=_interior_point(mask),
        area_percent=round(100 * mask.area / (width * height), 4),
        label=segment.label,
        confidence=_rounded(segment.confidence),
        crop_key=keys.crop(job.uuid, index),
        rle=_run_lengths(mask) if job.rle else None,
        prompt=segment.prompt,
        name=segment.name,
        category=segment.label if segment.name else None,
        parent=parent,
    )


def _run_lengths(mask: Mask) -> RunLengths:
    encoded = mask_to_rle(mask)
    return RunLengths(tuple(encoded["size"]), encoded["counts"])


def _interior_point(mask: Mask) -> Point | None:
    """A pixel in the mask; None if the centre of its box is in the mask."""
    return None if contains(mask, center_point(mask)) else Point(*interior_point(mask))


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(float(score), 6)


def _rounded_seconds(timing: Timing) -> dict[str, float]:
    return {stage: round(seconds, 4) for stage, seconds in timing.seconds.items()}
