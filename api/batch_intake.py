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
from api.error_responses import UnsupportedBody, request_error
from api.job_intake import receiving, uuid7
from api.service import Service, about_job, in_thread
from api.spool import Spool
from api.uploads import media_type
from seg_pipeline.domain import check_batch_id, check_model
from seg_pipeline.errors import BatchTooLarge
from seg_pipeline.jobs.batch_records import Batch
from seg_pipeline.jobs.batches import AcceptedBatch

KINDS = (JSON, *JSON_LINES, PLAIN)


async def accept_batch(request: Request, service: Service, options: BatchOptions) -> AcceptedBatch:
    """Reads a list of addresses and accepts its batch."""
    kind = media_type(request)
    if kind not in KINDS:
        raise UnsupportedBody(
            f"POST /batches reads {JSON}, {JSON_LINES[0]} and {PLAIN}: a list of addresses."
        )
    async with receiving(request, service) as (reader, spool):
        limit = service.settings.max_batch_list_bytes
        await reader.whole(spool, limit, _too_many_bytes(limit))
        async with service.admission.lists:
            accepted = await in_thread(_accept, service, options, spool, kind)
    about_job(request, accepted.batch.id)
    structlog.get_logger(__name__).info(
        "accepted" if accepted.created else "known already",
        jobs=accepted.batch.total,
        rejected=accepted.batch.rejected,
    )
    return accepted


def _too_many_bytes(limit: int) -> BatchTooLarge:
    return BatchTooLarge(
        f"the list has more than MAX_BATCH_LIST_BYTES = {limit} bytes; send it in parts."
    )


def _accept(service: Service, options: BatchOptions, spool: Spool, kind: str) -> AcceptedBatch:
    listing = Listing(service.settings.max_batch_jobs)
    if kind == JSON:
        options = _read_json(options, spool, listing)
    else:
        read_lines(spool.file, kind, listing)
    fingerprint = _fingerprint(options, spool.sha256)
    batch_id = check_batch_id(options.uuid) if options.uuid else uuid7()
    known = service.repository.batches.known(batch_id, fingerprint)
    if known is not None:
        return AcceptedBatch(known, created=False)
    batch = make_batch(service, options, listing.checked(), batch_id, fingerprint)
    return service.repository.batches.accept(batch, listing.entries)


def _read_json(options: BatchOptions, spool: Spool, listing: Listing) -> BatchOptions:
    """Adds the addresses of a JSON body. Gives the options, the body's over the query's."""
    spool.file.seek(0)
    body = read_json(spool.file.read())
    try:
        sent = BatchRequest.model_validate(body)
    except ValidationError as error:
        raise request_error(error) from error
    for index, value in enumerate(sent.image_urls):
        listing.add(f"image_urls[{index}]", value)
    given = {name: value for name, value in sent if value is not None and name != "image_urls"}
    return options.model_copy(update=given)


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
