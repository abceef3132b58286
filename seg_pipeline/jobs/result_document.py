"""Every JSON document of a job: what the model found, the stored result, and what clients and the
app server get.

`docs/job-result.schema.json` describes the last two. Stored documents name files by their keys;
keys become addresses when somebody asks, since the address depends on who asks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from seg_pipeline.domain import Job, JobStatus, Mask, Segment, shown_model
from seg_pipeline.errors import SegPipelineError
from seg_pipeline.imaging.cutouts import crop_name
from seg_pipeline.imaging.masks import center_point, contains, interior_point, mask_to_rle
from seg_pipeline.jobs.file_links import FileLinks
from seg_pipeline.store import keys

Document = dict[str, Any]

_SCORES = ("label", "confidence", "predicted_iou", "stability_score")


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """What a model found in a picture of `resolution_wh`, and how long that took it."""

    model: str
    weights_sha256: str
    resolution_wh: tuple[int, int]
    seconds: float
    segments: Sequence[Segment]


@dataclass(frozen=True)
class Timing:
    """When a job was worked on, and the seconds that each stage took."""

    started_at: datetime
    completed_at: datetime
    seconds: Mapping[str, float] = field(default_factory=dict)


def segments_document(found: ModelOutput) -> Document:
    """`segments.json`: what was found without the pixels, which are in the mask PNGs."""
    return {
        "model": found.model,
        "weights_sha256": found.weights_sha256,
        "resolution_wh": list(found.resolution_wh),
        "seconds": found.seconds,
        "segments": [
            {
                **{score: getattr(segment, score) for score in _SCORES},
                "bbox": _bbox(segment.mask),
                "area": segment.mask.area,
            }
            for segment in found.segments
        ],
    }


def read_segments(document: Document, masks: Sequence[Mask]) -> ModelOutput:
    """What `segments_document` wrote, with the masks in its order. ValueError if they are not the
    masks it names."""
    entries = document["segments"]
    if len(entries) != len(masks):
        raise ValueError(
            f"segments.json names {len(entries)} segments, but there are {len(masks)} masks"
        )
    for index, (entry, mask) in enumerate(zip(entries, masks, strict=True)):
        if (entry["bbox"], entry["area"]) != (_bbox(mask), mask.area):
            raise ValueError(f"mask {index} is not the one that segments.json describes")
    segments = [
        Segment(mask, **{score: entry[score] for score in _SCORES})
        for entry, mask in zip(entries, masks, strict=True)
    ]
    width, height = document["resolution_wh"]
    return ModelOutput(
        document["model"],
        document["weights_sha256"],
        (width, height),
        document["seconds"],
        segments,
    )


def result_document(job: Job, found: ModelOutput, timing: Timing) -> Document:
    """`result.json` of a completed job; the files it names are in the store before it is."""
    width, height = found.resolution_wh
    return {
        **_result_head(job, JobStatus.COMPLETED, timing),
        "weights_sha256": found.weights_sha256,
        "width": width,
        "height": height,
        "original_key": keys.original(job.uuid),
        "overlay_key": keys.overlay(job.uuid),
        "segments": [
            _stored_segment(job, index, segment) for index, segment in enumerate(found.segments)
        ],
    }


def files_of_segments(result: Document) -> set[str]:
    """The keys of all masks and cut-outs that a stored result names."""
    return {segment[name] for segment in result["segments"] for name in ("mask_key", "crop_key")}


def failed_document(job: Job, error: SegPipelineError, timing: Timing) -> Document:
    """`result.json` of a failed job: no files, and the reason."""
    return {
        **_result_head(job, JobStatus.FAILED, timing),
        "error": {"code": error.code, "message": str(error)},
    }


def answer_document(result: Document, links: FileLinks, base_url: str) -> Document:
    """What clients get for a finished job; `base_url` is the API's address, for links that lead to
    it."""
    crops = [segment["crop_key"] for segment in result["segments"]]
    files = [result["original_key"], *crops] if result["status"] == JobStatus.COMPLETED else []
    private = ("segments", "original_key", "overlay_key", "model")
    overlay = result["overlay_key"]
    return {
        "uuid": result["uuid"],
        "status": result["status"],
        "model": shown_model(result["model"]),
        "file_names": [links.file_name(key) for key in files],
        "urls": [links.url(key, base_url) for key in files],
        "segments": _public_segments(result, links, base_url),
        "overlay_url": links.url(overlay, base_url) if overlay else None,
        **{name: value for name, value in result.items() if name not in private},
    }


def unfinished_document(job: Job, status: JobStatus) -> Document:
    """What clients get for a job that is queued or processing: the same fields as far as they are
    known."""
    return {
        "uuid": job.uuid,
        "status": str(status),
        "model": shown_model(job.model),
        "file_names": [],
        "urls": [],
        "segments": [],
        "resize": job.resize,
        **_parameters(job),
        "accepted_at": job.accepted_at.isoformat(),
    }


def callback_document(result: Document, links: FileLinks, base_url: str) -> Document:
    """The PATCH to the app server: uuid, status and segments; a failed job's with the reason and no
    segments."""
    payload = {
        "uuid": result["uuid"],
        "status": result["status"],
        "segments": _public_segments(result, links, base_url),
    }
    return payload if result["error"] is None else {**payload, "error": result["error"]}


def _result_head(job: Job, status: JobStatus, timing: Timing) -> Document:
    """Every field of `result.json`, in its order, as far as the job itself knows it."""
    return {
        "uuid": job.uuid,
        "status": str(status),
        "model": job.model,
        "weights_sha256": None,
        "width": None,
        "height": None,
        "resize": job.resize,
        **_parameters(job),
        "original_key": None,
        "overlay_key": None,
        "segments": [],
        "accepted_at": job.accepted_at.isoformat(),
        "started_at": timing.started_at.isoformat(),
        "completed_at": timing.completed_at.isoformat(),
        "expires_at": job.expires_at(timing.completed_at).isoformat(),
        "seconds": {stage: round(seconds, 4) for stage, seconds in timing.seconds.items()},
        "error": None,
    }


def _parameters(job: Job) -> Document:
    """The parameters that the job set, as a field, if it set any."""
    return {"parameters": dict(job.parameters)} if job.parameters else {}


def _stored_segment(job: Job, index: int, segment: Segment) -> Document:
    """One entry of `result.json`, its files as keys; with the mask's run lengths if the job asked
    for them."""
    uuid, mask = job.uuid, segment.mask
    width, height = mask.resolution_wh
    center = center_point(mask)
    return {
        "segment_id": index,
        "mask_key": keys.mask(uuid, index),
        "bbox": _bbox(mask),
        "area": mask.area,
        "stability_score": _rounded(segment.stability_score),
        "predicted_iou": _rounded(segment.predicted_iou),
        "center_point": _point(center),
        **({} if contains(mask, center) else {"interior_point": _point(interior_point(mask))}),
        "area_percent": round(100 * mask.area / (width * height), 4),
        "label": segment.label,
        "confidence": _rounded(segment.confidence),
        "crop_key": keys.crop(uuid, crop_name(uuid, index)),
        **({"rle": mask_to_rle(mask)} if job.rle else {}),
    }


def _public_segments(result: Document, links: FileLinks, base_url: str) -> list[Document]:
    """The segments with addresses in the place of keys, the replaced service's fields first and in
    its order."""
    return [
        {name.replace("_key", "_url"): links.url(value,
                                                 base_url) if name.endswith("_key") else value
         for name, value in segment.items()}
        for segment in result["segments"]
    ]  # fmt: skip


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(float(score), 6)


def _bbox(mask: Mask) -> dict[str, int]:
    return {"x": mask.box.x, "y": mask.box.y, "width": mask.box.width, "height": mask.box.height}


def _point(point: tuple[int, int]) -> dict[str, int]:
    return {"x": point[0], "y": point[1]}
