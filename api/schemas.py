"""The form of requests, which are checked, and of answers, which are documented by it.

What a job answers is documented by its records, see `seg_pipeline.jobs.answer_schema`.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    Strict,
    ValidationInfo,
    WithJsonSchema,
)

from seg_pipeline.domain import (
    MAX_RESIZE,
    MAX_TTL_SECONDS,
    MAX_URL_LENGTH,
    MAX_WEBHOOK_LENGTH,
    UUID_PATTERN,
    JobStatus,
    Priority,
    number_in_text,
    whole_number,
)

PARAMETERS_ARE = (
    "What the model shall run with instead of what is configured: of a SAM-2 points_per_side,"
    " pred_iou_thresh, stability_score_thresh, crop_n_layers and the others of its automatic masks,"
    " of a YOLO confidence. Or prompts for a SAM-2, in pixels of the picture: points"
    " [[x, y, 1 on the object or 0 beside it], …], box [x0, y0, x1, y1], boxes, multimask."
)
RLE_IS = "Whether each segment carries its mask as COCO's compressed run lengths too."


def _read_whole_number(value: object, info: ValidationInfo) -> object:
    """Reads a number from text in a query or a form. In JSON a string is not a number."""
    is_text = isinstance(value, str) and info.mode != "json"
    return whole_number(number_in_text(str(value)) if is_text else value)


_WHOLE = BeforeValidator(_read_whole_number)

# The limits stand before the validator: behind it they would be no JSON schema's words.
Resize = Annotated[
    int,
    Strict(),
    Field(ge=1, le=MAX_RESIZE),
    _WHOLE,
    Field(description="Longer side of the cut-outs in pixels; upscales too."),
]
Ttl = Annotated[int, Strict(), Field(ge=1, le=MAX_TTL_SECONDS), _WHOLE]
PageSize = Annotated[int, Strict(), Field(ge=1, le=1000), _WHOLE]
NextPage = Annotated[
    str | None, Field(description="Send it as `after` for the next page; null at the end.")
]


ParametersText = Annotated[Json[dict[str, Any] | None], WithJsonSchema({"type": "string"})]
"""JSON in a field of text; the documentation's page would make a file chooser of another schema."""


class UploadOptions(BaseModel):
    """The options of an upload, in the query or as fields of a multipart form."""

    model_config = ConfigDict(extra="forbid")

    uuid: Annotated[str, Field(pattern=f"^{UUID_PATTERN}$")] | None = Field(
        None,
        description=(
            "Your own id for the job; the same id and request twice is the same job. Made here if"
            " absent."
        ),
    )
    model: Annotated[str, Field(min_length=1, max_length=255)] | None = Field(
        None,
        description=(
            "Which model segments: a yolo*-seg or sam2 name, demo-yolo, demo-sam2, both with + for"
            " SAM-2's masks with YOLO's labels, or sam2+yolo; MODEL if absent."
        ),
    )
    ttl_seconds: Ttl | None = Field(
        None, description="How long the result is kept; ASSET_TTL_SECONDS if absent."
    )
    parameters: ParametersText | None = Field(
        None, description=f"{PARAMETERS_ARE} A JSON object.", examples=['{"confidence": 0.5}']
    )
    rle: bool | None = Field(None, description=RLE_IS)
    reuse: bool | None = Field(
        None,
        description=(
            "Whether to answer from the store, if you asked the same of the same bytes before and"
            " its result is kept; REUSE_RESULTS if absent."
        ),
    )
    webhook: Annotated[str, Field(min_length=1, max_length=MAX_WEBHOOK_LENGTH)] | None = Field(
        None,
        description=(
            "An address that gets a signed POST when the job has ended; its host must be one of"
            " WEBHOOK_HOSTS."
        ),
    )
    priority: Priority | None = Field(
        None,
        description=(
            "Whose turn it is among jobs that wait: `high` goes before what has waited for less"
            " than ten minutes, `low` lets others go first, for half an hour at most."
        ),
    )
    image_of: Annotated[str, Field(pattern=f"^{UUID_PATTERN}$")] | None = Field(
        None, description="A job whose picture this one shall have, instead of an upload."
    )


class JobOptions(UploadOptions):
    """The options of `POST /jobs`, which takes `resize` here and not in its path."""

    resize: Resize | None = None
    image_url: Annotated[str, Field(min_length=1, max_length=MAX_URL_LENGTH)] | None = Field(
        None, description="Where the picture is, instead of an upload: http(s):// or s3://."
    )


class JobRequest(JobOptions):
    """A job by JSON, whose picture we fetch or have."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "uuid": "abc123",
                    "image_url": "https://cdn.example.com/images/sample.jpg",
                    "resize": 256,
                },
                {
                    "image_url": "https://cdn.example.com/images/sample.jpg",
                    "model": "sam2.1_hiera_large",
                    "parameters": {"points_per_side": 64, "pred_iou_thresh": 0.7},
                    "rle": True,
                },
                {
                    "image_of": "abc123",
                    "model": "sam2.1_hiera_large",
                    "parameters": {"points": [[320, 240, 1], [40, 40, 0]]},
                },
            ]
        },
    )

    image_url: Annotated[str, Field(min_length=1, max_length=MAX_URL_LENGTH)] | None = Field(
        None,
        description="Where the picture is: http(s):// or s3://; this or image_of is needed.",
    )
    parameters: dict[str, Any] | None = Field(
        None,
        description=PARAMETERS_ARE,
        examples=[{"points_per_side": 64}, {"points": [[320, 240, 1]]}],
    )


class CallbackRecorded(BaseModel):
    """The app server will be told of the job, perhaps again."""

    uuid: str
    state: Literal["pending"]


class JobLine(BaseModel):
    """A job in a list: its status at the time of the listing, and since when."""

    uuid: str
    status: JobStatus
    since: datetime


class JobPage(BaseModel):
    """A page of jobs."""

    jobs: list[JobLine]
    next: NextPage


class Failure(BaseModel):
    """Every error, whatever its status."""

    error: str = Field(description="One sentence: the value, the limit and what to do.")
    code: str | None = Field(
        None, description="What to switch on; absent only from `No masks found`."
    )
    uuid: str | None = Field(None, description="The job, where there is one.")


class Readiness(BaseModel):
    """Whether jobs can be accepted and will be processed."""

    status: Literal["ready", "unavailable"]
    checks: dict[str, str] = Field(
        description="store, inbox, worker and fetcher: `ok`, or a sentence."
    )


class Health(BaseModel):
    """Whether there was a request recently, as in the replaced service."""

    status: Literal["ok", "idle"]


class ModelParameter(BaseModel):
    """A parameter that a job may set for a model, and what it is unless one does."""

    name: str
    type: Literal["number", "integer", "boolean"]
    default: bool | int | float = Field(description="As configured here.")
    minimum: float | None = Field(description="Null for true or false; so is `maximum`.")
    maximum: float | None
    description: str


class OfferedModel(BaseModel):
    """A model that a job may have."""

    name: str = Field(description="What `model` takes; of a path only its last part.")
    kind: Literal["yolo", "sam2", "sam2+yolo"]
    summary: str
    is_default: bool = Field(description="Whether it is the one of a job that names none.")
    is_bundled: bool = Field(description="Whether its weights come with the service.")
    is_loaded: bool = Field(description="Whether a live worker has it in memory.")
    takes_prompts: bool = Field(description="Whether `parameters` may have points and boxes.")
    parameters: list[ModelParameter]


class ModelList(BaseModel):
    """The models that jobs may have, the default first."""

    models: list[OfferedModel]


class ServiceCard(BaseModel):
    """The service's name, version and documentation."""

    service: str
    version: str
    docs: str
    openapi: str


class Replayed(BaseModel):
    """The item that was tried again, and its job."""

    name: str
    uuid: str


COCO_EXAMPLE: dict[str, Any] = {
    "info": {
        "description": "Job 01938f9e-54b2-7cc1-a8a4-0d3b9c7a11f0, segmented by demo-yolo",
        "version": "1.0",
        "year": 2025,
        "contributor": "",
        "url": "",
        "date_created": "2025/01/06",
    },
    "licenses": [],
    "images": [
        {
            "id": 1,
            "file_name": "01938f9e-54b2-7cc1-a8a4-0d3b9c7a11f0.webp",
            "width": 4,
            "height": 4,
            "date_captured": "2025-01-06 12:00:00",
            "license": 0,
        }
    ],
    "categories": [{"id": 1, "name": "circle", "supercategory": ""}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "segmentation": {"size": [4, 4], "counts": "52203"},
            "bbox": [1.0, 1.0, 2.0, 2.0],
            "area": 4.0,
            "iscrowd": 0,
            "score": 0.95,
            "confidence": 0.95,
        }
    ],
}

PARKED_PAGE_EXAMPLE: dict[str, Any] = {
    "parked": [
        {
            "name": "callback-abc123",
            "kind": "callback",
            "reason": "the app server answered 422 Unprocessable Entity.",
            "parked_at": "2025-01-06T12:00:00.900000+00:00",
            "uuid": "abc123",
        }
    ],
    "next": None,
}

ANSWER_EXAMPLE: dict[str, Any] = {
    "uuid": "01938f9e-54b2-7cc1-a8a4-0d3b9c7a11f0",
    "status": "completed",
    "model": "demo-yolo",
    "file_names": [
        "01938f9e-54b2-7cc1-a8a4-0d3b9c7a11f0/original.webp",
        "01938f9e-54b2-7cc1-a8a4-0d3b9c7a11f0/crops/209d43982bc349299f45234071d1dd3d.webp",
    ],
    "urls": [
        "http://localhost:8000/assets/01938f9e-54b2-7cc1-a8a4-0d3b9c7a11f0/original.webp",
        "http://localhost:8000/assets/01938f9e-54b2-7cc1-a8a4-0d3b9c7a11f0/crops/209d43982bc349299f45234071d1dd3d.webp",
    ],
    "segments": [
        {
            "segment_id": 0,
            "mask_url": (
                "http://localhost:8000/assets/01938f9e-54b2-7cc1-a8a4-0d3b9c7a11f0/mask_images/mask_000.png"
            ),
            "bbox": {"x": 120, "y": 150, "width": 80, "height": 60},
            "area": 4523,
            "stability_score": None,
            "predicted_iou": None,
            "center_point": {"x": 160, "y": 180},
            "area_percent": 1.4723,
            "label": "circle",
            "confidence": 0.94,
            "crop_url": (
                "http://localhost:8000/assets/01938f9e-54b2-7cc1-a8a4-0d3b9c7a11f0/crops/"
                "209d43982bc349299f45234071d1dd3d.webp"
            ),
        }
    ],
    "overlay_url": "http://localhost:8000/assets/01938f9e-54b2-7cc1-a8a4-0d3b9c7a11f0/overlay.webp",
    "weights_sha256": "9f2b7c0f6f0f7f3c4f2f52b4f7a9b6d1e6c1a0c0b7f1f3d2a5e4c3b2a1908f7e",
    "width": 640,
    "height": 480,
    "resize": None,
    "accepted_at": "2025-01-06T12:00:00.100000+00:00",
    "started_at": "2025-01-06T12:00:00.300000+00:00",
    "completed_at": "2025-01-06T12:00:00.900000+00:00",
    "expires_at": "2025-01-06T13:00:00.900000+00:00",
    "seconds": {"source_image": 0.01, "segments": 0.3, "cutouts": 0.1, "result": 0.02},
    "error": None,
}

QUEUED_EXAMPLE: dict[str, Any] = {
    "uuid": "01938f9e-54b2-7cc1-a8a4-0d3b9c7a11f0",
    "status": "queued",
    "model": "demo-yolo",
    "file_names": [],
    "urls": [],
    "segments": [],
    "resize": None,
    "accepted_at": "2025-01-06T12:00:00.100000+00:00",
}

MODELS_EXAMPLE: dict[str, Any] = {
    "models": [
        {
            "name": "demo-yolo",
            "kind": "yolo",
            "summary": "Finds drawn shapes and names them; it knows no photographs.",
            "is_default": True,
            "is_bundled": True,
            "is_loaded": False,
            "takes_prompts": False,
            "parameters": [
                {
                    "name": "confidence",
                    "type": "number",
                    "default": 0.25,
                    "minimum": 0,
                    "maximum": 1,
                    "description": "Detections less sure than this are dropped.",
                }
            ],
        }
    ]
}

PAGE_EXAMPLE: dict[str, Any] = {
    "jobs": [
        {
            "uuid": "01938f9e-54b2-7cc1-a8a4-0d3b9c7a11f0",
            "status": "completed",
            "since": "2025-01-06T12:00:00.900000+00:00",
        }
    ],
    "next": None,
}
