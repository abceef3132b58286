"""Turns a client's request into a job in the inbox."""

import hashlib
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import UUID

import structlog
from fastapi import Request
from pydantic import ValidationError

from api.admission import client_of
from api.error_responses import UnsupportedBody, request_error
from api.idempotency import job_of_key, read_idempotency_key
from api.schemas import JobOptions, JobRequest, UploadOptions
from api.service import Service, about_job, in_thread
from api.spool import Spool
from api.uploads import BodyReader, announced_bytes, is_multipart, media_type
from seg_pipeline.domain import Job, Priority, check_client_uuid, check_model
from seg_pipeline.errors import InvalidRequest
from seg_pipeline.jobs.acceptance import Accepted, job_of_picture
from seg_pipeline.jobs.kept_pictures import ONE_PICTURE, kept_picture
from seg_pipeline.model_parameters import configured_parameters
from seg_pipeline.settings import Settings

_OF_THE_REQUEST = {
    *("uuid", "model", "ttl_seconds", "webhook", "priority", "reuse", "image_of", "image_url"),
}
"""Options that change nothing of what is found; the model counts by its resolved name."""

MAX_JSON_BYTES = 64 * 2**10

Options = TypeVar("Options", bound=UploadOptions)


def uuid7() -> str:
    """A new id that sorts by time: 48 bits of milliseconds, then 74 random ones.

    RFC 9562, section 5.7.
    """
    milliseconds, random = time.time_ns() // 1_000_000, int.from_bytes(os.urandom(10))
    value = milliseconds << 80 | random
    return str(UUID(int=value & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62))


async def accept_upload(
    request: Request, service: Service, options: UploadOptions, resize: int | None
) -> Accepted:
    """Reads a picture (raw or in a form) and accepts its job. `resize` is the path's.

    With `image_of` there is none to read.
    """
    async with receiving(request, service) as (reader, spool):
        if is_multipart(request):
            form = await reader.form(spool, UploadOptions.model_fields)
            sent = _resized(merge_fields(options, form.fields), resize)
            has_picture = form.has_picture
        else:
            await reader.image(spool)
            sent, has_picture = _resized(options, resize), spool.size > 0
        picture = spool if has_picture or sent.image_of is None else None
        return await _accept(request, service, sent, picture, spool)


async def accept_job(request: Request, service: Service, options: JobOptions) -> Accepted:
    """Reads a job (JSON, or a form with a picture or a URL) and accepts it."""
    async with receiving(request, service) as (reader, spool):
        if is_multipart(request):
            form = await reader.form(spool, JobOptions.model_fields)
            picture = spool if form.has_picture else None
            sent = merge_fields(options, form.fields)
            return await _accept(request, service, sent, picture, spool)
        if media_type(request) != "application/json":
            raise UnsupportedBody(
                "POST /jobs reads application/json with an image_url, or multipart/form-data with a"
                " picture; a bare picture goes to POST /segment."
            )
        sent = merge_json(options, await reader.json_bytes(MAX_JSON_BYTES))
        return await _accept(request, service, sent, None, spool)


def merge_fields(options: Options, fields: dict[str, str]) -> Options:
    """The options, with a form's fields over the query's."""
    try:
        sent = type(options).model_validate(fields)
    except ValidationError as error:
        raise request_error(error) from error
    return options.model_copy(update=_given(sent))


def merge_json(options: JobOptions, body: bytes) -> JobOptions:
    """The options, with a JSON object's fields over the query's. Types are strict."""
    try:
        sent = JobRequest.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise request_error(error) from error
    return options.model_copy(update=_given(sent))


def make_job(service: Service, options: JobOptions, picture: Spool | None) -> Job:
    """The job, checked without decoding or fetching. Raises RequestError or ImageError.

    The picture of `image_of` must be in the spool already.
    """
    settings = service.settings
    common: dict[str, Any] = {
        "uuid": check_client_uuid(options.uuid) if options.uuid else uuid7(),
        "model": check_model(options.model or settings.model, settings.offered_models),
        "resize": options.resize,
        "ttl_seconds": options.ttl_seconds or settings.asset_ttl_seconds,
        "parameters": options.parameters or {},
        "rle": options.rle or False,
        "webhook": options.webhook,
        "priority": options.priority or Priority.NORMAL,
    }
    if options.webhook is not None:
        allow_webhook(options.webhook, settings)
    if (picture is None) == (options.image_url is None):
        raise InvalidRequest("send either a picture or an image_url, and not both.")
    if picture is None:
        from seg_pipeline.adapters.image_fetch import check_image_url

        check_image_url(str(options.image_url))
        return Job(image_url=options.image_url, **common)
    return job_of_picture(picture.file, picture.sha256, settings.max_image_pixels, **common)


def allow_webhook(url: str, settings: Settings) -> None:
    """Raises WebhookRefused unless a webhook may be there."""
    from seg_pipeline.adapters.webhooks import check_webhook

    check_webhook(url, settings)


def _copy_picture(service: Service, uuid: str, spool: Spool) -> None:
    for piece in kept_picture(service.store, uuid):
        spool.write(piece)


def _resized(options: UploadOptions, resize: int | None) -> JobOptions:
    return JobOptions(resize=resize).model_copy(update=_given(options))


def _given(options: UploadOptions) -> dict[str, Any]:
    """The options that are set, by name."""
    return {name: value for name, value in options if value is not None}


@asynccontextmanager
async def receiving(request: Request, service: Service) -> AsyncIterator[tuple[BodyReader, Spool]]:
    """A reader of the body, and the spool of its picture.

    Raises TooManyRequests or Busy before anything is read.
    """
    admission, settings = service.admission, service.settings
    with admission.uploads.hold(client_of(request)) as slot:
        await in_thread(admission.check, announced_bytes(request))
        with Spool(settings.uploads_path, admission.space.check) as spool:
            limits = settings.max_image_bytes, settings.upload_stall_seconds
            yield BodyReader(request, *limits, admission.turns, slot), spool


async def _accept(
    request: Request,
    service: Service,
    options: JobOptions,
    picture: Spool | None,
    spool: Spool,
) -> Accepted:
    """Accepts the job of a picture, or of an address. A kept picture goes to the spool first."""
    key = read_idempotency_key(request)
    if key and options.uuid:
        raise InvalidRequest("send either a uuid or an Idempotency-Key: each names the job.")
    if options.image_of is not None:
        if picture is not None or options.image_url is not None:
            raise InvalidRequest(ONE_PICTURE)
        await in_thread(_copy_picture, service, options.image_of, spool)
        picture = spool
    job = await in_thread(make_job, service, options, picture)
    if key:
        job = await in_thread(job_of_key, service.repository, key, options, job)
    about_job(request, job.uuid)
    client = getattr(request.state, "client", "")
    accepted = await in_thread(accept_in_store, service, options, job, picture, client)
    if accepted.created:
        service.admission.backlog.add()
    structlog.get_logger(__name__).info(
        "accepted" if accepted.created else "known already",
        model=job.model,
        bytes=picture.size if picture else 0,
    )
    return accepted


def accept_in_store(
    service: Service, options: JobOptions, job: Job, picture: Spool | None, client: str
) -> Accepted:
    """Accepts the job, which has ended then if it is answered from the store."""
    repository = service.repository
    if picture is None:
        return repository.acceptance.accept(job)
    if not wants_reuse(service, options, job):
        return repository.acceptance.accept(job, picture.file)
    return repository.reuse.accept(job, picture.file, _question(service, options, job, client))


def wants_reuse(service: Service, options: JobOptions, job: Job) -> bool:
    """Whether the job may be answered from the store: an upload, by its wish or by the setting."""
    wish = service.settings.reuse_results if options.reuse is None else options.reuse
    return wish and job.source_sha256 is not None


def _question(service: Service, options: JobOptions, job: Job, client: str) -> str:
    """A name for what is asked; the same for the same question of the same client."""
    configured = configured_parameters(job.model, service.settings)
    asked = options.model_dump(mode="json", exclude=_OF_THE_REQUEST, exclude_none=True)
    question = json.dumps(
        [client, job.source_sha256, job.model, configured, asked], sort_keys=True, default=str
    )
    return hashlib.sha256(question.encode("utf-8", "surrogatepass")).hexdigest()
