"""Errors as HTTP answers: one table from error code to status, one shape of body for all.

The body is `{"error": "<sentence>", "code": "<code>"}`, with the job's `uuid` if there is one. The
replaced service's `{"error": "No masks found"}` is kept exactly.
"""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from api.middleware.methods import allowed_methods
from seg_pipeline.domain import MAX_RESIZE, MAX_TTL_SECONDS
from seg_pipeline.errors import (
    InvalidParameter,
    InvalidRequest,
    InvalidResize,
    InvalidTtl,
    InvalidUuid,
    RequestError,
    SegPipelineError,
    UnexpectedError,
    UnknownModel,
)

log = logging.getLogger(__name__)

STATUS_BY_CODE = {
    # The request
    "invalid_host": 400,
    "invalid_request": 422,
    "invalid_uuid": 422,
    "invalid_resize": 422,
    "invalid_ttl": 422,
    "invalid_parameter": 422,
    "invalid_prompt": 422,
    "prompt_outside": 422,
    "invalid_url": 422,
    "webhook_refused": 422,
    "idempotency_key_reused": 422,
    "unknown_model": 422,
    "unauthorized": 401,
    "link_refused": 403,
    "job_not_found": 404,
    "batch_not_found": 404,
    "picture_not_kept": 404,
    "asset_not_found": 404,
    "not_found": 404,
    "parked_not_found": 404,
    "method_not_allowed": 405,
    "body_too_slow": 408,
    "cancelled": 409,
    "job_conflict": 409,
    "batch_conflict": 409,
    "job_failed": 409,
    "job_finished": 409,
    "job_in_progress": 409,
    "not_failed": 409,
    "not_replayable": 409,
    "nothing_to_tell": 409,
    "body_too_large": 413,
    "batch_too_large": 413,
    "too_many_requests": 429,
    "unsupported_body": 415,
    "unknown_host": 421,
    "rate_limited": 429,
    # The picture
    "invalid_image": 400,
    "empty_image": 400,
    "not_an_image": 400,
    "truncated_image": 400,
    "animated_image": 400,
    "no_masks_found": 400,
    "image_too_large": 413,
    "too_many_pixels": 413,
    "image_too_costly": 413,
    "output_too_large": 413,
    "unsupported_image": 400,
    "undecodable_image": 400,
    # The picture's server
    "url_refused": 400,
    "fetch_failed": 502,
    "fetch_rejected": 502,
    "fetch_unavailable": 502,
    # Ours
    "device_broken": 500,
    "store_too_new": 500,
    "error": 500,
    "internal_error": 500,
    "model_failed": 500,
    "model_out_of_memory": 500,
    "worker_lost": 500,
    "decoder_lost": 500,
    "store_failed": 500,
    "object_not_found": 500,
    "busy": 503,
    "queue_unavailable": 503,
    "weights_missing": 503,
    "store_unavailable": 503,
    "store_full": 507,
}

RETRY_AFTER_SECONDS = 5

_CODE_BY_STATUS = {401: "unauthorized", 404: "not_found", 405: "method_not_allowed"}

STORE_SENTENCES = {
    "store_full": "The store has no space left; nothing of this request was kept.",
    "store_unavailable": "The store cannot be reached; try again in a moment.",
}

UNEXPECTED = "something went wrong here; the log has the details."

_FIELD_ERRORS: dict[str, Callable[[Any], InvalidRequest]] = {
    "uuid": InvalidUuid,
    "model": UnknownModel,
    "resize": lambda value: InvalidResize(value, MAX_RESIZE),
    "ttl_seconds": lambda value: InvalidTtl(value, MAX_TTL_SECONDS),
    "parameters": lambda value: InvalidParameter(
        f"parameters {str(value)[:80]!r} must be a JSON object."
    ),
    "image_of": InvalidUuid,
    "rle": lambda value: InvalidRequest(f"rle {str(value)[:40]!r} must be true or false."),
}


class Unauthorized(RequestError):
    """The request carries none of the API_KEYS."""

    code = "unauthorized"

    def __init__(self) -> None:
        super().__init__(
            "this service needs a key: send it as x-api-key or as Authorization: Bearer."
        )


class RateLimited(RequestError):
    """A key was used more often than API_RATES allows."""

    code = "rate_limited"

    def __init__(self, name: str, wait_seconds: float) -> None:
        self.headers = {"Retry-After": str(math.ceil(wait_seconds))}
        super().__init__(
            f"key {name} has used up its requests; send the next in {math.ceil(wait_seconds)} s."
        )


class FileNotPublished(RequestError):
    """The documentation or the page has no such file."""

    code = "not_found"


class InvalidHost(RequestError):
    """The request has not exactly one valid Host header (RFC 9112, section 3.2)."""

    code = "invalid_host"

    def __init__(self) -> None:
        super().__init__("a request needs one Host header, such as localhost:8000.")


class UnknownHost(RequestError):
    """The request came under a name that may be somebody else's."""

    code = "unknown_host"

    def __init__(self, host: str) -> None:
        super().__init__(
            f"there is nothing at {host[:80]!r}; use the service's own name or address"
            " (ALLOWED_HOSTS)."
        )


class LinkRefused(RequestError):
    """A link to a file has no signature of ours, or has expired."""

    code = "link_refused"

    def __init__(self) -> None:
        super().__init__("this link is not signed or has expired; GET /jobs/{uuid} has fresh ones.")


class AssetNotFound(RequestError):
    """A finished job has no such file."""

    code = "asset_not_found"


class BodyTooSlow(RequestError):
    """The body stalled, or took too long in all."""

    code = "body_too_slow"


class BodyTooLarge(RequestError):
    """A body other than a picture exceeds its limit."""

    code = "body_too_large"


class UnsupportedBody(RequestError):
    """This route does not read the body's content type."""

    code = "unsupported_body"


class TooManyRequests(RequestError):
    """The client has as many requests in progress as one client may."""

    code = "too_many_requests"


class JobInProgress(RequestError):
    """The job has not ended, or the app server waits for it: what is asked must wait too."""

    code = "job_in_progress"


class JobFailed(RequestError):
    """The job has failed, so there is nothing of it to be had."""

    code = "job_failed"

    def __init__(self, uuid: str, code: str, message: str) -> None:
        super().__init__(f"job {uuid} has failed ({code}): {message}")


class JobFinished(RequestError):
    """The job has ended, so there is nothing to cancel."""

    code = "job_finished"

    def __init__(self, uuid: str, status: str) -> None:
        super().__init__(f"job {uuid} has {status} already; there is nothing to cancel.")


class Busy(SegPipelineError):
    """The service has as much in progress, or as little space left, as it may."""

    code = "busy"
    permanent = False


def status_of(code: str) -> int:
    """The HTTP status for an error code; 500 for an unknown one."""
    return STATUS_BY_CODE.get(code, 500)


def failure_body(code: str, sentence: str, uuid: str | None = None) -> dict[str, Any]:
    """The JSON of a failure."""
    return {"error": sentence, "code": code, **({"uuid": uuid} if uuid else {})}


def failure_response(
    code: str, sentence: str, uuid: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The answer for an error code. 401, 429 and 503 carry the headers that clients look for."""
    status = status_of(code)
    return JSONResponse(
        failure_body(code, sentence, uuid), status, {**_headers_for(status), **(headers or {})}
    )


def no_masks_found() -> JSONResponse:
    """The replaced service's exact answer when there are no segments."""
    return JSONResponse({"error": "No masks found"}, STATUS_BY_CODE["no_masks_found"])


def request_error(error: ValidationError | RequestValidationError) -> InvalidRequest:
    """The first error that pydantic found, in our own words."""
    first = error.errors()[0]
    field = str(first["loc"][-1]) if first["loc"] else "body"
    if first["type"] not in ("extra_forbidden", "missing") and field in _FIELD_ERRORS:
        return _FIELD_ERRORS[field](first["input"])
    if first["type"] == "extra_forbidden":
        return InvalidRequest(f"field {field[:80]!r} is not known here.")
    return InvalidRequest(f"{field[:80]}: {first['msg']}.")


def install_failure_handlers(app: FastAPI) -> None:
    """Gives every failure of the app, also those of FastAPI and the router, the same shape."""
    app.add_exception_handler(SegPipelineError, _on_reported)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(StarletteHTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_unexpected)


def _headers_for(status: int) -> dict[str, str]:
    if status == 401:
        return {"WWW-Authenticate": "Bearer"}
    return {"Retry-After": str(RETRY_AFTER_SECONDS)} if status in (429, 503) else {}


async def _on_reported(request: Request, error: Exception) -> Response:
    code = getattr(error, "code", "error")
    if status_of(code) >= 500:
        log.warning("%s %s failed (%s): %s", request.method, request.scope["path"], code, error)
    sentence = STORE_SENTENCES.get(code, str(error))
    return failure_response(
        code, sentence, getattr(request.state, "uuid", None), getattr(error, "headers", None)
    )


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return await _on_reported(request, request_error(error))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    path, docs = request.scope["path"][:200], request.app.state.service.links(request).to("/docs")
    sentence = {
        404: f"there is nothing at {path}; see {docs}.",
        405: f"{request.scope['method']} is not allowed at {path}; see {docs}.",
    }.get(error.status_code, str(error.detail))
    code = _CODE_BY_STATUS.get(
        error.status_code, "invalid_request" if error.status_code < 500 else "internal_error"
    )
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(allowed_methods(request.scope, request.app.router.routes))
    return JSONResponse(failure_body(code, sentence), error.status_code, headers)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    log.info("%s %s: the client went away while sending", request.method, request.scope["path"])
    return failure_response("invalid_request", "the request broke off before its end.")


async def _on_unexpected(request: Request, error: Exception) -> Response:
    """The traceback goes to the log (the server writes it), never to the client."""
    return failure_response(UnexpectedError.code, UNEXPECTED)
