"""The form of requests for batches, which are checked, and examples of their answers."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from api.schemas import PARAMETERS_ARE, RLE_IS, ParametersText, Resize, Ttl
from seg_pipeline.domain import BATCH_ID_PATTERN, MAX_WEBHOOK_LENGTH

Uuid = Annotated[str, Field(pattern=f"^{BATCH_ID_PATTERN}$")]


class BatchOptions(BaseModel):
    """The options of a batch, in the query; they are those of all its jobs."""

    model_config = ConfigDict(extra="forbid")

    uuid: Uuid | None = Field(
        None,
        description=(
            "Your own id for the batch; the same id and request twice is the same batch. Made here"
            " if absent."
        ),
    )
    model: Annotated[str, Field(min_length=1, max_length=255)] | None = Field(
        None, description="Which model segments; MODEL if absent."
    )
    resize: Resize | None = None
    ttl_seconds: Ttl | None = Field(
        None,
        description="How long the results are kept after the batch's end; ASSET_TTL_SECONDS if"
        " absent.",
    )
    parameters: ParametersText | None = Field(
        None, description=f"{PARAMETERS_ARE} A JSON object.", examples=['{"confidence": 0.5}']
    )
    rle: bool | None = Field(None, description=RLE_IS)
    callback: bool | None = Field(
        None, description="Whether the app server is told of the end; true if absent."
    )
    webhook: Annotated[str, Field(min_length=1, max_length=MAX_WEBHOOK_LENGTH)] | None = Field(
        None,
        description=(
            "An address that gets a signed POST when the batch has ended; its host must be one of"
            " WEBHOOK_HOSTS."
        ),
    )


class NamedPicture(BaseModel):
    """A picture of a batch with a name of its own."""

    image_url: str = Field(description="Where the picture is: http(s):// or s3://.")
    name: str = Field(description="What the picture is called in exports; its address if absent.")


class BatchRequest(BatchOptions):
    """A batch by JSON. The addresses are checked one by one: those that are none are reported."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "image_urls": [
                        "https://cdn.example.com/images/1.jpg",
                        {"image_url": "s3://pictures/2.jpg", "name": "2.jpg"},
                    ],
                    "model": "demo-yolo",
                }
            ]
        },
    )

    image_urls: list[Any] | None = Field(
        None,
        description="Addresses, or objects with an `image_url` and a `name`.",
        json_schema_extra={
            "items": {"anyOf": [{"type": "string"}, NamedPicture.model_json_schema()]}
        },
    )
    prefix: Annotated[str, Field(min_length=1, max_length=2048)] | None = Field(
        None,
        description="Instead of `image_urls`: s3://bucket/prefix, for all pictures whose keys begin"
        " so.",
    )
    parameters: dict[str, Any] | None = Field(None, description=PARAMETERS_ARE)


BATCH_EXAMPLE: dict[str, Any] = {
    "uuid": "01938f9e-54b2-7cc1-a8a4-0d3b9c7a11f0",
    "status": "processing",
    "model": "demo-yolo",
    "total": 2000,
    "counts": {
        "waiting": 1200,
        "queued": 96,
        "processing": 32,
        "completed": 670,
        "failed": 2,
        "cancelled": 0,
    },
    "per_second": 8.4,
    "eta_seconds": 158.1,
    "rejected": 1,
    "problems": [
        {
            "where": "line 17",
            "code": "invalid_url",
            "message": "image_url 'hello' must begin with http://, https:// or s3:// and a host.",
        }
    ],
    "accepted_at": "2025-01-06T12:00:00.100000+00:00",
    "completed_at": None,
    "expires_at": None,
}

BATCHES_EXAMPLE: dict[str, Any] = {
    "batches": [
        {
            "uuid": "01938f9e-54b2-7cc1-a8a4-0d3b9c7a11f0",
            "status": "completed",
            "total": 2000,
            "accepted_at": "2025-01-06T12:00:00.100000+00:00",
        }
    ],
    "next": None,
}

BATCH_JOBS_EXAMPLE: dict[str, Any] = {
    "jobs": [
        {
            "index": 4,
            "name": "https://cdn.example.com/images/5.jpg",
            "uuid": "batch-01938f9e-54b2-7cc1-a8a4-0d3b9c7a11f0-000004",
            "status": "failed",
            "error": {"code": "fetch_rejected", "message": "cdn.example.com answered 404."},
        }
    ],
    "next": None,
}
