"""What clients and the app server are told of a job.

`answer_schema` makes `docs/job-result.schema.json` from these records. Their fields are in the
order of the keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from seg_pipeline.domain import (
    MAX_RESIZE,
    UUID_PATTERN,
    Box,
    Job,
    JobStatus,
    Moment,
    shown_model,
)
from seg_pipeline.jobs.file_links import FileLinks
from seg_pipeline.jobs.records import FailureReason, Point, Result, RunLengths, SegmentRecord
from seg_pipeline.prompts import Values
from seg_pipeline.store.serialization import OPTIONAL

CALLBACK_PATH = "/api/v1/re-imagine/auto-mask/"
"""Where the app server takes what it is told, below its address; a uuid follows."""


def _told(text: str, **limits: Any) -> Any:
    return Field(description=text, **limits)


def _address(text: str | None = None, **more: str) -> Any:
    return Field(description=text, json_schema_extra={"format": "uri-reference", **more})


_UTC = {
    "format": "date-time",
    "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(\+00:00|Z)$",
}

Uuid = Annotated[str, Field(pattern=f"^{UUID_PATTERN}$")]
Time = Annotated[Moment, Field(description="UTC.", json_schema_extra=_UTC)]
ModelName = Annotated[str, _told("The model that was asked for.", min_length=1)]
WeightsSha256 = Annotated[
    str, _told("Names the very weights that were used.", pattern="^[0-9a-f]{64}$")
]
Width = Annotated[int, _told("Of the picture as the model saw it, turned upright.", ge=1)]
Height = Annotated[int, Field(ge=1)]
Resize = Annotated[
    Annotated[int, Field(ge=1, le=MAX_RESIZE)] | None,
    _told("The longer side of the cut-outs in pixels, if one was asked for."),
]
ParametersSet = Annotated[
    Mapping[str, Values],
    _told(
        "Only if the job set some: what the model ran with instead of what is configured;"
        " switches are 1 or 0. Or the prompts that it was asked for.",
        min_length=1,
    ),
    OPTIONAL,
]
OverlayAddress = Annotated[
    str, _address("The picture with its segments drawn on it, WEBP, at most 1600 px long.")
]
Seconds = Annotated[
    Mapping[str, Annotated[float, Field(ge=0)]], _told("What each stage took, by its name.")
]


@dataclass(frozen=True, kw_only=True)
class PublicSegment:
    """One thing found. Scores that the model does not give are null: YOLO gives label and
    confidence, SAM-2 gives predicted_iou and stability_score."""

    segment_id: Annotated[int, _told("Its place in the list, from 0 and without gaps.", ge=0)]
    mask_url: Annotated[
        str,
        _address(
            "A PNG as large as the picture: opaque black inside, transparent black outside.",
            pattern=r"/mask_images/mask_[0-9]{3,}\.png$",
        ),
    ]
    bbox: Annotated[Box, _told("The tight box around the mask, in pixels.")]
    area: Annotated[int, _told("Pixels in the mask.", ge=1)]
    stability_score: Annotated[
        float | None, _told("SAM-2: how little the mask changes with its threshold, 0 to 1.")
    ]
    predicted_iou: Annotated[
        float | None, _told("SAM-2: its own guess of the mask's quality, about 0 to 1.")
    ]
    center_point: Annotated[
        Point, _told("The centre of bbox. It may lie beside the mask or in a hole of it.")
    ]
    interior_point: Annotated[
        Point | None,
        _told(
            "Only where center_point is not in the mask: the mask's pixel that is farthest from its"
            " edge."
        ),
        OPTIONAL,
    ]
    area_percent: Annotated[float, _told("The mask's share of the picture.", ge=0, le=100)]
    label: Annotated[str | None, _told("YOLO: the class.")]
    confidence: Annotated[float | None, _told("YOLO: 0 to 1.")]
    crop_url: Annotated[
        str,
        _address(
            "The segment cut out: WEBP, tight, transparent outside the mask.",
            pattern=r"/crops/[0-9a-f]{32}\.webp$",
        ),
    ]
    rle: Annotated[
        RunLengths | None,
        _told(
            "Only if the job asked for it: the mask once more, as COCO's compressed run lengths,"
            " which pycocotools reads."
        ),
        OPTIONAL,
    ]
    prompt: Annotated[
        int | None,
        _told("Only if the job had `boxes`: the place of the one that this is of.", ge=0),
        OPTIONAL,
    ]
    name: Annotated[
        str | None,
        _told(
            "Only of named masks: the thing's name, which masks of one thing share.", min_length=1
        ),
        OPTIONAL,
    ]
    category: Annotated[
        str | None, _told("Only of named masks: the label that both models agree on."), OPTIONAL
    ]
    parent: Annotated[
        int | None,
        _told("Only of named masks: the segment_id of the smallest segment around it.", ge=0),
        OPTIONAL,
    ]


FileNames = Annotated[
    tuple[Annotated[str, Field(pattern=r"\.webp$")], ...],
    _told(
        "The original picture first, then one cut-out a segment, in the segments' order: keys in"
        " the bucket, or paths below /assets/."
    ),
]
Addresses = Annotated[
    tuple[Annotated[str, _address()], ...],
    _told("The addresses of the same files, in the same order."),
]
Segments = Annotated[tuple[PublicSegment, ...], _told("Largest area first.")]


@dataclass(frozen=True, kw_only=True)
class FinishedJob:
    """A job that has ended: its files and segments, or why there are none."""

    uuid: Uuid
    status: JobStatus
    model: ModelName
    file_names: FileNames
    urls: Addresses
    segments: Segments
    overlay_url: OverlayAddress | None
    weights_sha256: WeightsSha256 | None
    width: Width | None
    height: Height | None
    resize: Resize
    parameters: ParametersSet
    accepted_at: Time
    started_at: Time
    completed_at: Time
    expires_at: Annotated[Time, _told("From then on the files may be removed.")]
    seconds: Seconds
    error: FailureReason | None


@dataclass(frozen=True, kw_only=True)
class UnfinishedJob:
    """A job that waits or is being worked on."""

    uuid: Uuid
    status: JobStatus
    model: ModelName
    file_names: FileNames = ()
    urls: Addresses = ()
    segments: Segments = ()
    resize: Resize
    parameters: ParametersSet
    accepted_at: Time


@dataclass(frozen=True, kw_only=True)
class Callback:
    """The body of the PATCH to the app server; the `error` of a failed job only."""

    uuid: Uuid
    status: JobStatus
    segments: Segments
    error: Annotated[FailureReason | None, OPTIONAL]


def finished_job(result: Result, links: FileLinks, base_url: str) -> FinishedJob:
    """What clients get for a finished job; `base_url` is the API's address, for links to it."""
    crops = [segment.crop_key for segment in result.segments]
    files = [result.original_key, *crops] if result.original_key else []
    return FinishedJob(
        uuid=result.uuid,
        status=result.status,
        model=shown_model(result.model),
        file_names=tuple(links.file_name(key) for key in files),
        urls=tuple(links.url(key, base_url) for key in files),
        segments=_public_segments(result, links, base_url),
        overlay_url=links.url(result.overlay_key, base_url) if result.overlay_key else None,
        weights_sha256=result.weights_sha256,
        width=result.width,
        height=result.height,
        resize=result.resize,
        parameters=result.parameters,
        accepted_at=result.accepted_at,
        started_at=result.started_at,
        completed_at=result.completed_at,
        expires_at=result.expires_at,
        seconds=result.seconds,
        error=result.error,
    )


def unfinished_job(job: Job, status: JobStatus) -> UnfinishedJob:
    """What clients get for a job that is queued or processing."""
    return UnfinishedJob(
        uuid=job.uuid,
        status=status,
        model=shown_model(job.model),
        resize=job.resize,
        parameters=job.parameters,
        accepted_at=job.accepted_at,
    )


def callback(result: Result, links: FileLinks, base_url: str, uuid: str | None = None) -> Callback:
    """What the app server gets; `uuid` is its name for the job, if that is not the job's own."""
    return Callback(
        uuid=uuid or result.uuid,
        status=result.status,
        segments=_public_segments(result, links, base_url),
        error=result.error,
    )


def _public_segments(result: Result, links: FileLinks, base_url: str) -> tuple[PublicSegment, ...]:
    return tuple(_public_segment(each, links, base_url) for each in result.segments)


def _public_segment(segment: SegmentRecord, links: FileLinks, base_url: str) -> PublicSegment:
    """The segment with addresses instead of keys."""
    return PublicSegment(
        segment_id=segment.segment_id,
        mask_url=links.url(segment.mask_key, base_url),
        bbox=segment.bbox,
        area=segment.area,
        stability_score=segment.stability_score,
        predicted_iou=segment.predicted_iou,
        center_point=segment.center_point,
        interior_point=segment.interior_point,
        area_percent=segment.area_percent,
        label=segment.label,
        confidence=segment.confidence,
        crop_url=links.url(segment.crop_key, base_url),
        rle=segment.rle,
        prompt=segment.prompt,
        name=segment.name,
        category=segment.category,
        parent=segment.parent,
    )
