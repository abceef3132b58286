"""Turns a client's request into a batch."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog
from fastapi import Request
from pydantic import ValidationError

from api.batch_lists import JSON, JSON_LINES, PLAIN, Listing, read_json, read_lines
from api.batch_schemas import BatchOptions, BatchRequest
from api.batch_zips import MEDIA_TYPES as ZIPS
from api.batch_zips import Keep, ZipLimits, read_zip
from api.error_responses import UnsupportedBody, request_error
from api.idempotency import IdempotencyKey, read_idempotency_key
from api.job_intake import allow_webhook, receiving, uuid7
from api.service import Service, about_job, in_thread
from api.spool import Spool
from api.uploads import media_type
from seg_pipeline.domain import check_batch_id, check_model
from seg_pipeline.errors import BatchTooLarge, InvalidRequest
from seg_pipeline.jobs.batch_records import Batch
from seg_pipeline.jobs.batches import AcceptedBatch
from seg_pipeline.settings import Settings
from seg_pipeline.store import keys

KINDS = (JSON, *JSON_LINES, PLAIN, *ZIPS)


async def accept_batch(request: Request, service: Service, options: BatchOptions) -> AcceptedBatch:
    """Reads a list of addresses, or a ZIP of pictures, and accepts its batch."""
    kind = media_type(request)
    if kind not in KINDS:
        raise UnsupportedBody(
            f"POST /batches reads addresses as {JSON}, {JSON_LINES[0]} or {PLAIN}, and pictures as"
            f" {ZIPS[0]}."
        )
    key = read_idempotency_key(request)
    async with receiving(request, service) as (reader, spool):
        await reader.whole(spool, *_limit(service.settings, kind))
        turns = service.admission.zips if kind in ZIPS else service.admission.lists
        async with turns:
            accepted = await in_thread(_accept, service, options, spool, kind, key)
    about_job(request, accepted.batch.id)
    structlog.get_logger(__name__).info(
        "accepted" if accepted.created else "known already",
        jobs=accepted.batch.total,
        rejected=accepted.batch.rejected,
    )
    return accepted


def _limit(settings: Settings, kind: str) -> tuple[int, BatchTooLarge]:
    """How many bytes a body may have, and what is raised above."""
    is_zip = kind in ZIPS
    what, name, limit = (
        ("ZIP", "MAX_BATCH_ZIP_BYTES", settings.max_batch_zip_bytes)
        if is_zip
        else ("list", "MAX_BATCH_LIST_BYTES", settings.max_batch_list_bytes)
    )
    return limit, BatchTooLarge(
        f"the {what} has more than {name} = {limit} bytes; send it in parts."
    )


def _accept(
    service: Service, options: BatchOptions, spool: Spool, kind: str, key: IdempotencyKey | None
) -> AcceptedBatch:
    body = None
    if kind == JSON:
        body = _read_json(spool)
        options = _merged(options, body)
    if options.webhook is not None:
        allow_webhook(options.webhook, service.settings)
    fingerprint = _fingerprint(options, spool.sha256)
    batch_id = _batch_id(service, options, fingerprint, key)
    known = service.repository.batches.known(batch_id, fingerprint)
    if known is not None:
        return AcceptedBatch(known, created=False)
    listing = _listing(service, body, spool, kind, batch_id)
    batch = make_batch(service, options, listing.checked(), batch_id, fingerprint)
    return service.repository.batches.accept(batch, listing.entries)


def _batch_id(
    service: Service, options: BatchOptions, fingerprint: str, key: IdempotencyKey | None
) -> str:
    """The id that the client gave, or that of its key, or a new one."""
    if options.uuid:
        if key is not None:
            raise InvalidRequest("send either a uuid or an Idempotency-Key: each names the batch.")
        return check_batch_id(options.uuid)
    if key is None:
        return uuid7()
    return service.repository.idempotency.uuid_of(key.name, fingerprint, uuid7())


def _listing(
    service: Service, body: BatchRequest | None, spool: Spool, kind: str, batch_id: str
) -> Listing:
    """What was sent; the pictures of a ZIP are in the store then."""
    listing = Listing(service.settings.max_batch_jobs)
    if body is not None:
        _add_all(service.settings, body, listing)
    elif kind in ZIPS:
        read_zip(spool.file, _zip_limits(service), listing, _keeper(service, batch_id))
    else:
        read_lines(spool.file, kind, listing)
    return listing


def _zip_limits(service: Service) -> ZipLimits:
    settings = service.settings
    return ZipLimits(
        settings.max_batch_zip_bytes,
        settings.max_image_bytes,
        settings.max_image_pixels,
        lambda: Spool(settings.uploads_path, service.admission.space.check),
    )


def _keeper(service: Service, batch_id: str) -> Keep:
    def keep(index: int, picture: Spool) -> None:
        key = keys.batch_picture(batch_id, index, picture.sha256)
        service.store.put_file(key, picture.file)

    return keep


def _read_json(spool: Spool) -> BatchRequest:
    spool.file.seek(0)
    body = read_json(spool.file.read())
    try:
        return BatchRequest.model_validate(body)
    except ValidationError as error:
        raise request_error(error) from error


def _merged(options: BatchOptions, body: BatchRequest) -> BatchOptions:
    """The options, the body's over the query's."""
    names = BatchOptions.model_fields
    given = {name: value for name, value in body if value is not None and name in names}
    return options.model_copy(update=given)


def _add_all(settings: Settings, body: BatchRequest, listing: Listing) -> None:
    """Adds the addresses of a JSON body, or those that its prefix stands for."""
    if (body.image_urls is None) == (body.prefix is None):
        raise InvalidRequest("send either image_urls or a prefix, and not both.")
    for index, value in enumerate(body.image_urls or ()):
        listing.add(f"image_urls[{index}]", value)
    if body.prefix is not None:
        add_below(body.prefix, settings, listing)


def add_below(prefix: str, settings: Settings, listing: Listing) -> None:
    """Adds the pictures of a bucket whose keys begin with the prefix. Raises FetchError."""
    from seg_pipeline.adapters.s3_listing import objects_below

    for found in objects_below(prefix, settings):
        if found.is_picture_by_name:
            listing.add(found.object.key, found.object.url)
        else:
            listing.reject(found.object.key, "not_a_picture", "its name is not that of a picture.")


def make_batch(
    service: Service, options: BatchOptions, listing: Listing, batch_id: str, fingerprint: str
) -> Batch:
    """The batch, checked as each of its jobs will be. Raises RequestError."""
    settings, now = service.settings, datetime.now(UTC)
    callback = options.callback if options.callback is not None else True
    batch = Batch(
        id=batch_id,
        model=check_model(options.model or settings.model, settings.offered_models),
        total=len(listing.entries),
        fingerprint=fingerprint,
        resize=options.resize,
        ttl_seconds=options.ttl_seconds or settings.asset_ttl_seconds,
        parameters=options.parameters or {},
        rle=options.rle or False,
        callback=callback and settings.app_server_url is not None,
        webhook=options.webhook,
        rejected=listing.rejected,
        problems=tuple(listing.problems),
        accepted_at=now,
    )
    return _with_plain_parameters(batch, listing, now)


def _with_plain_parameters(batch: Batch, listing: Listing, now: datetime) -> Batch:
    return replace(batch, parameters=batch.job(0, listing.entries[0], now).parameters)


def _fingerprint(options: BatchOptions, sha256: str) -> str:
    """What tells two requests under one id apart."""
    asked: dict[str, Any] = options.model_dump(exclude={"uuid"})
    text = json.dumps([sha256, asked], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
