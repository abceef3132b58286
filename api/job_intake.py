"""From what a client sent to a job in the inbox."""

import os
import time
from typing import Any, TypeVar
from uuid import UUID

import structlog
from fastapi import Request
from pydantic import ValidationError

from api.error_responses import UnsupportedBody, request_error
from api.schemas import JobOptions, JobRequest, UploadOptions
from api.service import Service, about_job, in_thread
from api.uploads import is_multipart, media_type
from seg_pipeline.domain import Job, check_model
from seg_pipeline.errors import InvalidRequest
from seg_pipeline.imaging.images import identify
from seg_pipeline.jobs.repository import Accepted, fingerprint

MAX_JSON_BYTES = 64 * 2**10

Options = TypeVar("Options", bound=UploadOptions)


def uuid7() -> str:
    """A new id that sorts by time: 48 bits of milliseconds, then 74 random ones (RFC 9562, section 5.7)."""
    milliseconds, random = time.time_ns() // 1_000_000, int.from_bytes(os.urandom(10))
    value = milliseconds << 80 | random
    return str(UUID(int=value & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62))


async def accept_upload(request: Request, service: Service, options: UploadOptions, resize: int | None) -> Accepted:
    """Reads a picture (raw or in a form) and puts its job into the inbox; `resize` is the path's."""
    with service.upload_memory.hold() as hold:
        reader = service.body_reader(request, hold)
        if not is_multipart(request):
            return await _accept(request, service, _resized(options, resize), await reader.image())
        form = await reader.form()
        return await _accept(request, service, _resized(merge_fields(options, form.fields), resize), form.data or b"")


async def accept_job(request: Request, service: Service, options: JobOptions) -> Accepted:
    """Reads a job (JSON, or a form with a picture or an address) and puts it into the inbox."""
    with service.upload_memory.hold() as hold:
        reader = service.body_reader(request, hold)
        if is_multipart(request):
            form = await reader.form()
            return await _accept(request, service, merge_fields(options, form.fields), form.data)
        if media_type(request) != "application/json":
            raise UnsupportedBody(
                "POST /jobs reads application/json with an image_url, or multipart/form-data with a picture; "
                "a bare picture goes to POST /segment."
            )
        asked = merge_json(options, await reader.json_bytes(MAX_JSON_BYTES))
        return await _accept(request, service, asked, None)


def merge_fields(options: Options, fields: dict[str, str]) -> Options:
    """The options with a form's fields over the query's."""
    try:
        asked = type(options).model_validate(fields)
    except ValidationError as error:
        raise request_error(error) from error
    return options.model_copy(update=_given(asked))


def merge_json(options: JobOptions, body: bytes) -> JobOptions:
    """The options with a JSON object's fields over the query's; types are taken strictly."""
    try:
        asked = JobRequest.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise request_error(error) from error
    return options.model_copy(update=_given(asked))


def make_job(service: Service, options: JobOptions, data: bytes | None) -> Job:
    """The job, checked as far as it can be without decoding or fetching. Raises RequestError or ImageError."""
    settings = service.settings
    common: dict[str, Any] = {
        "uuid": options.uuid or uuid7(),
        "model": check_model(options.model or settings.model, settings.models),
        "resize": options.resize,
        "ttl_seconds": options.ttl_seconds or settings.asset_ttl_seconds,
        "parameters": options.parameters or {},
        "rle": options.rle or False,
    }
    if (data is None) == (options.image_url is None):
        raise InvalidRequest("send either a picture or an image_url, and not both.")
    if data is None:
        from seg_pipeline.adapters.image_fetch import check_image_url

        check_image_url(str(options.image_url))
        return Job(image_url=options.image_url, **common)
    header = identify(data, settings.max_image_pixels)
    return Job(source_sha256=fingerprint(data), source_extension=header.extension, **common)


def _resized(options: UploadOptions, resize: int | None) -> JobOptions:
    return JobOptions(resize=resize).model_copy(update=_given(options))


def _given(options: UploadOptions) -> dict[str, Any]:
    """What was said, by name."""
    return {name: value for name, value in options if value is not None}


async def _accept(request: Request, service: Service, options: JobOptions, data: bytes | None) -> Accepted:
    job = await in_thread(make_job, service, options, data)
    about_job(request, job.uuid)
    accepted = await in_thread(service.inbox.accept, job, data)
    structlog.get_logger(__name__).info(
        "accepted" if accepted.created else "known already", model=job.model, bytes=len(data or b"")
    )
    return accepted
