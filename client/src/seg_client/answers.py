"""What the service answers. Keys that are newer than this client are kept, and not checked."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Bbox(Answer):
    """A rectangle in pixels of the picture."""

    x: int
    y: int
    width: int
    height: int


class Point(Answer):
    """A pixel of the picture."""

    x: int
    y: int


class RunLengths(Answer):
    """A mask as COCO's compressed run lengths; `size` is height and width."""

    size: tuple[int, int]
    counts: str


class SegmentAnswer(Answer):
    """One thing found. Scores that the model does not give are None.

    `name`, `category` and `parent` are of named masks, `prompt` is the place of the job's box.
    """

    segment_id: int
    mask_url: str
    crop_url: str
    bbox: Bbox
    area: int
    area_percent: float
    center_point: Point
    interior_point: Point | None = None
    label: str | None = None
    confidence: float | None = None
    predicted_iou: float | None = None
    stability_score: float | None = None
    rle: RunLengths | None = None
    prompt: int | None = None
    name: str | None = None
    category: str | None = None
    parent: int | None = None


class FailureReason(Answer):
    """Why a job failed."""

    code: str
    message: str


class JobAnswer(Answer):
    """A job as it stands. What only a finished job has is None before."""

    uuid: str
    status: str
    model: str
    file_names: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    segments: tuple[SegmentAnswer, ...] = ()
    overlay_url: str | None = None
    weights_sha256: str | None = None
    width: int | None = None
    height: int | None = None
    resize: int | None = None
    parameters: dict[str, Any] | None = None
    accepted_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    expires_at: datetime | None = None
    seconds: dict[str, float] = {}
    error: FailureReason | None = None


class BatchCounts(Answer):
    """How many pictures of a batch stand where."""

    waiting: int
    queued: int
    processing: int
    completed: int
    failed: int
    cancelled: int


class BatchProblem(Answer):
    """Why a line of a list, or a file of a ZIP, is no picture of the batch."""

    where: str
    code: str
    message: str


class BatchAnswer(Answer):
    """A batch as it stands. `rejected` counts all problems, and `problems` has the first."""

    uuid: str
    status: str
    model: str
    total: int
    counts: BatchCounts
    per_second: float = 0.0
    eta_seconds: float | None = None
    rejected: int = 0
    problems: tuple[BatchProblem, ...] = ()
    accepted_at: datetime
    completed_at: datetime | None = None
    expires_at: datetime | None = None


class BatchJob(Answer):
    """A picture of a batch, with its job and how that stands."""

    index: int
    name: str
    uuid: str
    status: str
    error: FailureReason | None = None


class Failure(Answer):
    """Every error of the service, whatever its status."""

    error: str
    code: str | None = None
    uuid: str | None = None
