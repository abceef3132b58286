"""The answers of routes in OpenAPI. The statuses come from the table in `error_responses`."""

import json
from typing import Any

from fastapi import FastAPI, Query

from api.batch_schemas import BATCH_EXAMPLE, BATCH_JOBS_EXAMPLE, BATCHES_EXAMPLE
from api.error_examples import error_examples
from api.error_responses import STATUS_BY_CODE, failure_body, status_of
from api.idempotency import LONGEST
from api.schemas import (
    ANSWER_EXAMPLE,
    COCO_EXAMPLE,
    MODELS_EXAMPLE,
    PAGE_EXAMPLE,
    PARKED_PAGE_EXAMPLE,
    QUEUED_EXAMPLE,
    Failure,
)
from seg_pipeline.jobs.answer_schema import make_schema

Responses = dict[int | str, dict[str, Any]]

_ERRORS = error_examples()
_EXAMPLES = {
    "finished": ANSWER_EXAMPLE,
    "queued": QUEUED_EXAMPLE,
    "coco": COCO_EXAMPLE,
    "page": PAGE_EXAMPLE,
    "models": MODELS_EXAMPLE,
    "parked": PARKED_PAGE_EXAMPLE,
    "batch": BATCH_EXAMPLE,
    "batch_jobs": BATCH_JOBS_EXAMPLE,
    "batches": BATCHES_EXAMPLE,
}
"""Shown by reference: FastAPI drops nulls from inline examples, and so required fields."""

EVERYWHERE = ("unauthorized", "rate_limited", "store_unavailable", "internal_error")
UPLOADING = (
    *("empty_image", "not_an_image", "unsupported_image", "truncated_image", "animated_image"),
    *("image_too_large", "too_many_pixels", "image_too_costly"),
    *(
        "invalid_request",
        "invalid_uuid",
        "invalid_ttl",
        "invalid_resize",
        "unknown_model",
        "invalid_parameter",
        "webhook_refused",
        "invalid_prompt",
        "prompt_outside",
        "picture_not_kept",
    ),
    *("body_too_slow", "job_conflict", "idempotency_key_reused"),
    *("too_many_requests", "busy", "store_full"),
)


def failures(*codes: str) -> Responses:
    """The `responses` of a route that can fail with these codes: an example each, by status."""
    responses: Responses = {}
    for code in codes:
        response = responses.setdefault(
            status_of(code), {"model": Failure, "description": "", "content": {}}
        )
        examples = response["content"].setdefault("application/json", {"examples": {}})["examples"]
        examples[code] = {"value": _example(code)}
        response["description"] = ", ".join(examples)
    return responses


def shown(*names: str) -> dict[str, Any]:
    """The content of an answer in JSON, with these examples."""
    examples = {name: {"$ref": f"#/components/examples/{name}"} for name in names}
    return {"application/json": {"examples": examples}}


def finished(description: str) -> dict[str, Any]:
    """An answer that is a finished job."""
    content = _one_of("finished", "CompletedJob", "FailedJob")
    return {"description": description, "content": content}


def finished_or_not(description: str) -> dict[str, Any]:
    """An answer that is a job, wherever it stands."""
    content = _one_of("finished", "CompletedJob", "FailedJob", "UnfinishedJob")
    content["application/json"]["examples"] |= shown("queued")["application/json"]["examples"]
    return {"description": description, "content": content}


def _one_of(example: str, *schemas: str) -> dict[str, Any]:
    """The content of an answer that has one of these schemas."""
    content = shown(example)
    content["application/json"]["schema"] = {
        "oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in schemas]
    }
    return content


def unfinished(description: str) -> dict[str, Any]:
    """An answer that is an unfinished job, with the URL to ask for it."""
    return {
        "description": description,
        "content": _one_of("queued", "UnfinishedJob"),
        "headers": {
            "Location": {"description": "Where to ask for it.", "schema": {"type": "string"}},
            "Retry-After": {
                "description": "Seconds until it is worth asking.",
                "schema": {"type": "integer"},
            },
        },
    }


def page_token(longest: int) -> Any:
    """The parameter of a listing that says where the next page begins."""
    return Query(max_length=longest, description="The former page's `next`.")


def header(name: str, description: str) -> dict[str, Any]:
    """A parameter that a request may have as a header."""
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string"},
    }


UNCHANGED: Responses = {304: {"description": "Unchanged since the ETag in `If-None-Match`."}}

PREFERENCE_APPLIED = {
    "Preference-Applied": {
        "description": "Which of the preferences was granted.",
        "schema": {"type": "string"},
    }
}

IDEMPOTENCY_KEY = header(
    "Idempotency-Key",
    f"1 to {LONGEST} printable characters of ASCII, in quotes or without: sent again with the same"
    " request, it is the same job.",
)


def openapi_of(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document without the 422 that it adds to every route with a parameter."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        for methods in document["paths"].values():
            for operation in methods.values():
                if "HTTPValidationError" in str(operation["responses"].get("422")):
                    del operation["responses"]["422"]
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        document["components"]["schemas"] |= _job_schemas()
        document["components"]["examples"] = {
            name: {"value": value} for name, value in _EXAMPLES.items()
        }
    assert app.openapi_schema
    return app.openapi_schema


_JOB_SCHEMAS = {
    "completed": "CompletedJob",
    "failed": "FailedJob",
    "unfinished": "UnfinishedJob",
    "segment": "Segment",
    "error": "FailureReason",
    "rle": "RunLengths",
    "point": "Point",
    "box": "Box",
}
"""Names of `docs/job-result.schema.json`, and what OpenAPI's clients call them."""


def _job_schemas() -> dict[str, Any]:
    """What a job answers, from the records that are served."""
    definitions = make_schema()["$defs"]
    text = json.dumps({name: definitions[name] for name in _JOB_SCHEMAS})
    for name, ours in _JOB_SCHEMAS.items():
        text = text.replace(f'"#/$defs/{name}"', f'"#/components/schemas/{ours}"')
    schemas = json.loads(text)
    return {ours: schemas[name] for name, ours in _JOB_SCHEMAS.items()}


def _example(code: str) -> dict[str, Any]:
    if code == "no_masks_found":
        return {"error": "No masks found"}
    assert code in STATUS_BY_CODE, code
    return failure_body(code, str(_ERRORS[code]))
