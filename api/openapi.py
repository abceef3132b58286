"""How routes say in OpenAPI what they can answer; the statuses come from the one table in `failures`."""

from typing import Any

from fastapi import FastAPI

from api.error_responses import STATUS_BY_CODE, failure_body, status_of
from api.schemas import Failure, FinishedJob, UnfinishedJob

Responses = dict[int | str, dict[str, Any]]

_SENTENCES = {
    "animated_image": "The GIF picture has more than one frame; send a single one.",
    "asset_not_found": "job abc123 has no file crops/x.webp, or it has expired.",
    "body_too_large": "a JSON body may have 65536 bytes; send a picture as multipart/form-data.",
    "body_too_slow": "the body stalled for 60 s or took ten times that in all; send it again.",
    "busy": "the service has 1000 uploads under way already; try again in a moment.",
    "empty_image": "The picture is empty: no bytes arrived.",
    "image_too_large": "the picture has more than MAX_IMAGE_BYTES = 33554432 bytes.",
    "internal_error": "something went wrong here; the log has the details.",
    "invalid_parameter": "parameter points_per_side 65 must be a whole number from 1 to 64.",
    "invalid_request": "send either a picture or an image_url, and not both.",
    "invalid_resize": "resize 0 must be a whole number of pixels from 1 to 8192.",
    "invalid_ttl": "ttl_seconds 0 must be a whole number from 1 to 2592000.",
    "invalid_url": "image_url must begin with http://, https:// or s3://.",
    "invalid_uuid": "uuid '../x' must be 1 to 64 letters, digits, '-' or '_', the first a letter or digit.",
    "job_conflict": "job abc123 exists with a different request; send another uuid or the same request.",
    "job_in_progress": "job abc123 is being worked on; delete it when it has finished.",
    "job_not_found": "job abc123 does not exist or has expired.",
    "model_failed": "The model did not segment the picture.",
    "not_replayable": "the message abc123 was too long to be kept whole; drop it and send another.",
    "nothing_to_tell": "job abc123 has not ended yet; the app server will be told when it has.",
    "not_an_image": "The 12 bytes are no picture of a known format (AVIF, BMP, GIF, JPEG, PNG, TIFF, WEBP).",
    "parked_not_found": "nothing is parked as 'callback-abc123'; it may have been replayed or dropped already.",
    "link_refused": "this link is not signed or has expired; GET /jobs/{uuid} has fresh ones.",
    "rate_limited": "key shop has used up its requests; send the next in 2 s.",
    "store_full": "The store has no space left; nothing of this request was kept.",
    "store_unavailable": "The store cannot be reached; try again in a moment.",
    "too_many_requests": "you have 500 uploads under way already; try again in a moment.",
    "too_many_pixels": "The picture has 20000x20000 = 400000000 pixels, more than MAX_IMAGE_PIXELS = 50000000.",
    "unsupported_image": "The picture is a camera's raw file (DNG); export it as JPEG, PNG or TIFF.",
    "image_too_costly": "The JPEG picture has more than 100 scans; save it anew, with fewer passes.",
    "truncated_image": "The JPEG picture is truncated or damaged: image file is truncated.",
    "unauthorized": "this service needs a key: send it as x-api-key or as Authorization: Bearer.",
    "unknown_model": "model 'yolo' is unknown; name a yolo*-seg model such as yolov8x-seg.",
    "unsupported_body": "POST /jobs reads application/json with an image_url, or multipart/form-data with a picture.",
    "url_refused": "The address 169.254.169.254 is not ours to ask.",
    "worker_lost": "The worker died on every attempt.",
}

EVERYWHERE = ("unauthorized", "rate_limited", "store_unavailable", "internal_error")
UPLOADING = (
    *("empty_image", "not_an_image", "unsupported_image", "truncated_image", "animated_image"),
    *("image_too_large", "too_many_pixels", "image_too_costly"),
    *("invalid_request", "invalid_uuid", "invalid_ttl", "invalid_resize", "unknown_model", "invalid_parameter"),
    *("body_too_slow", "job_conflict", "too_many_requests", "busy", "store_full"),
)


def failures(*codes: str) -> Responses:
    """The `responses` of a route that can fail with these codes: an example each, grouped by status."""
    responses: Responses = {}
    for code in codes:
        response = responses.setdefault(status_of(code), {"model": Failure, "description": "", "content": {}})
        examples = response["content"].setdefault("application/json", {"examples": {}})["examples"]
        examples[code] = {"value": _example(code)}
        response["description"] = ", ".join(examples)
    return responses


def finished(description: str, example: dict[str, Any]) -> dict[str, Any]:
    """An answer that is a finished job."""
    return {
        "model": FinishedJob,
        "description": description,
        "content": {"application/json": {"example": example}},
    }


def unfinished(description: str, example: dict[str, Any]) -> dict[str, Any]:
    """An answer that is a job still waiting or being worked on, with where to look for it."""
    return {
        "model": UnfinishedJob,
        "description": description,
        "content": {"application/json": {"example": example}},
        "headers": {"Location": {"description": "Where to ask for it.", "schema": {"type": "string"}}},
    }


def openapi_of(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document without the 422 of its own that it adds to every route with a parameter."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        for methods in document["paths"].values():
            for operation in methods.values():
                if "HTTPValidationError" in str(operation["responses"].get("422")):
                    del operation["responses"]["422"]
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
    assert app.openapi_schema
    return app.openapi_schema


def _example(code: str) -> dict[str, Any]:
    if code == "no_masks_found":
        return {"error": "No masks found"}
    assert code in STATUS_BY_CODE, code
    return failure_body(code, _SENTENCES.get(code, "One sentence."))
