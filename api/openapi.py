"""The answers of routes in OpenAPI. The statuses come from the table in `error_responses`."""

from typing import Any

from fastapi import FastAPI

from api.error_examples import error_examples
from api.error_responses import STATUS_BY_CODE, failure_body, status_of
from api.schemas import (
    ANSWER_EXAMPLE,
    COCO_EXAMPLE,
    MODELS_EXAMPLE,
    PAGE_EXAMPLE,
    PARKED_PAGE_EXAMPLE,
    QUEUED_EXAMPLE,
    Failure,
    FinishedJob,
    UnfinishedJob,
)

Responses = dict[int | str, dict[str, Any]]

_ERRORS = error_examples()
_EXAMPLES = {
    "finished": ANSWER_EXAMPLE,
    "queued": QUEUED_EXAMPLE,
    "coco": COCO_EXAMPLE,
    "page": PAGE_EXAMPLE,
    "models": MODELS_EXAMPLE,
    "parked": PARKED_PAGE_EXAMPLE,
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
    ),
    *("body_too_slow", "job_conflict", "too_many_requests", "busy", "store_full"),
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
    return {
        "model": FinishedJob,
        "description": description,
        "content": shown("finished"),
    }


def unfinished(description: str) -> dict[str, Any]:
    """An answer that is an unfinished job, with the URL to ask for it."""
    return {
        "model": UnfinishedJob,
        "description": description,
        "content": shown("queued"),
        "headers": {
            "Location": {"description": "Where to ask for it.", "schema": {"type": "string"}}
        },
    }


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
        document["components"]["examples"] = {
            name: {"value": value} for name, value in _EXAMPLES.items()
        }
    assert app.openapi_schema
    return app.openapi_schema


def _example(code: str) -> dict[str, Any]:
    if code == "no_masks_found":
        return {"error": "No masks found"}
    assert code in STATUS_BY_CODE, code
    return failure_body(code, str(_ERRORS[code]))
