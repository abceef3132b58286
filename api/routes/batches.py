"""Batches: many pictures under one id."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from api.auth import RequireKey
from api.batch_intake import accept_batch
from api.batch_schemas import BatchOptions, BatchRequest
from api.openapi import EVERYWHERE, IDEMPOTENCY_KEY, failures, page_token, shown
from api.schemas import NextPage, PageSize
from api.service import Service, ServiceDep, about_job, in_thread
from api.views import page_response, record_response
from seg_pipeline.domain import BATCH_ID_PATTERN, check_batch_id
from seg_pipeline.errors import InvalidPageToken
from seg_pipeline.jobs.batch_answers import BatchAnswer, BatchJob, batch_answer
from seg_pipeline.jobs.batch_records import Batch, BatchProgress, BatchStatus, EntryState
from seg_pipeline.jobs.heartbeats import uuids_at_work
from seg_pipeline.store.serialization import to_document

router = APIRouter(prefix="/batches", tags=["batches"], dependencies=[RequireKey])

Uuid = Annotated[
    str,
    Path(
        description="The batch's id: 1 to 51 letters, digits, `-` and `_`.",
        json_schema_extra={"pattern": f"^{BATCH_ID_PATTERN}$"},
    ),
]


class EntryStatus(StrEnum):
    """Where a picture of a batch stands."""

    WAITING = "waiting"
    QUEUED = "queued"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


_STATES = {
    EntryStatus.WAITING: EntryState.WAITING,
    EntryStatus.QUEUED: EntryState.OPEN,
    EntryStatus.COMPLETED: EntryState.COMPLETED,
    EntryStatus.FAILED: EntryState.FAILED,
    EntryStatus.CANCELLED: EntryState.CANCELLED,
}
_STATUSES = {state: status for status, state in _STATES.items()}


class BatchJobPage(BaseModel):
    """A page of a batch's pictures."""

    jobs: list[BatchJob]
    next: NextPage


class BatchLine(BaseModel):
    """A batch in a list."""

    uuid: str
    status: BatchStatus
    total: int
    accepted_at: datetime


class BatchPage(BaseModel):
    """A page of batches, by id."""

    batches: list[BatchLine]
    next: NextPage


_LINES: dict[str, Any] = {
    "schema": {"type": "string"},
    "example": "https://cdn.example.com/images/1.jpg\nhttps://cdn.example.com/images/2.jpg\n",
}
_BODY: dict[str, Any] = {
    "parameters": [IDEMPOTENCY_KEY],
    "requestBody": {
        "required": True,
        "description": "Addresses as JSON, as JSON Lines, or as plain text with one a line; or a"
        " ZIP of pictures.",
        "content": {
            "application/json": {"schema": BatchRequest.model_json_schema()},
            "application/x-ndjson": _LINES,
            "text/plain": _LINES,
            "application/zip": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}
_BATCH = {"model": BatchAnswer, "content": shown("batch")}


@router.post(
    "",
    summary="Send many pictures as one batch",
    openapi_extra=_BODY,
    status_code=202,
    responses={
        200: _BATCH | {"description": "The same batch was sent before; this is how it stands."},
        202: _BATCH | {"description": "Accepted; none of it can get lost from here on."},
        **failures(
            *("invalid_request", "invalid_uuid", "invalid_ttl", "invalid_resize"),
            *("unknown_model", "invalid_parameter", "batch_conflict", "batch_too_large"),
            "idempotency_key_reused",
            *("body_too_slow", "unsupported_body", "invalid_url", "url_refused", "webhook_refused"),
            *("fetch_rejected", "fetch_unavailable"),
            *("too_many_requests", "busy", "store_full"),
            *EVERYWHERE,
        ),
    },
)
async def post_batch(
    request: Request, service: ServiceDep, options: Annotated[BatchOptions, Query()]
) -> Response:
    """A list of addresses, a prefix of a bucket, or a ZIP of pictures.

    Lines and files that are no pictures are reported by their places; the others go on.

    Its pictures become jobs in portions, so that other jobs need not wait for all of them.
    """
    accepted = await accept_batch(request, service, options)
    answer = await in_thread(_answer, service, accepted.batch)
    headers = {"Location": service.links(request).to(f"/batches/{accepted.batch.id}")}
    return record_response(answer, 202 if accepted.created else 200, headers)


@router.get(
    "",
    summary="List batches",
    response_model=BatchPage,
    responses={
        200: {"description": "A page.", "content": shown("batches")},
        **failures("invalid_request", *EVERYWHERE),
    },
)
async def list_batches(
    request: Request,
    service: ServiceDep,
    limit: PageSize = 50,
    after: Annotated[str | None, page_token(64)] = None,
) -> Response:
    """By id; of ids that were made here, the oldest first."""
    page = await in_thread(_page, service, after, limit)
    return page_response(service.links(request), "/batches", page, limit=limit)


@router.get(
    "/{uuid}",
    summary="One batch",
    responses={
        200: _BATCH | {"description": "The batch as it stands."},
        **failures("invalid_uuid", "batch_not_found", *EVERYWHERE),
    },
)
async def get_batch(request: Request, service: ServiceDep, uuid: Uuid) -> Response:
    """How many pictures stand where, how fast it goes and when it will end."""
    about_job(request, check_batch_id(uuid))
    batch = await in_thread(service.repository.batches.get, uuid)
    answer = await in_thread(_answer, service, batch)
    return record_response(answer, headers={"Cache-Control": "no-store"})


@router.get(
    "/{uuid}/jobs",
    summary="A batch's pictures",
    response_model=BatchJobPage,
    responses={
        200: {"description": "A page, in the batch's order.", "content": shown("batch_jobs")},
        **failures("invalid_request", "invalid_uuid", "batch_not_found", *EVERYWHERE),
    },
)
async def list_batch_jobs(
    request: Request,
    service: ServiceDep,
    uuid: Uuid,
    status: Annotated[EntryStatus | None, Query(description="Only these.")] = None,
    limit: PageSize = 50,
    after: Annotated[str | None, page_token(16)] = None,
) -> Response:
    """Each with its job, and why it failed. A job that a worker has is `queued` here."""
    about_job(request, check_batch_id(uuid))
    batch = await in_thread(service.repository.batches.get, uuid)
    jobs, following = await in_thread(_jobs, service, batch, status, limit, _place(after))
    body = {"jobs": [to_document(job) for job in jobs], "next": following}
    path = f"/batches/{uuid}/jobs"
    return page_response(service.links(request), path, body, status=status, limit=limit)


@router.delete(
    "/{uuid}",
    summary="Cancel a batch, or delete one that has ended",
    status_code=204,
    response_class=Response,
    responses={
        202: _BATCH | {"description": "Cancelled: what has not ended ends within seconds."},
        204: {"description": "Gone, with all its jobs and files."},
        **failures("invalid_uuid", "batch_not_found", *EVERYWHERE),
    },
)
async def delete_batch(request: Request, service: ServiceDep, uuid: Uuid) -> Response:
    """A batch that has not ended is cancelled; delete it again when it has ended."""
    about_job(request, check_batch_id(uuid))
    batch = await in_thread(service.repository.batches.get, uuid)
    if await in_thread(_delete, service, batch):
        return Response(status_code=204)
    return record_response(await in_thread(_answer, service, batch), 202)


def _delete(service: Service, batch: Batch) -> bool:
    """Deletes the batch. Returns False if it is only being cancelled."""
    batches = service.repository.batches
    if batches.progress(batch).ended_at is None:
        batches.cancel(batch)
        return False
    batches.delete(batch)
    return True


def _answer(service: Service, batch: Batch) -> BatchAnswer:
    live = uuids_at_work(service.live_heartbeats())
    progress = service.repository.batches.progress(batch)
    return batch_answer(batch, progress, datetime.now(UTC), live)


def _page(service: Service, after: str | None, limit: int) -> dict[str, Any]:
    batches = service.repository.batches
    ids = batches.ids(after, limit + 1)
    calls = [partial(_line, service, batch_id) for batch_id in ids[:limit]]
    lines = [line for line in service.store.at_once(calls) if line]
    return {"batches": lines, "next": ids[limit - 1] if len(ids) > limit else None}


def _line(service: Service, batch_id: str) -> dict[str, Any] | None:
    batch = service.repository.batches.find(batch_id)
    if batch is None:
        return None
    progress = service.repository.batches.progress(batch)
    line = BatchLine(
        uuid=batch_id,
        status=progress.status,
        total=batch.total,
        accepted_at=batch.accepted_at,
    )
    return line.model_dump(mode="json")


def _jobs(
    service: Service, batch: Batch, status: EntryStatus | None, limit: int, after: int
) -> tuple[list[BatchJob], str | None]:
    """A page of pictures: of the batch's files only the portions of the page are read, and only
    the results of what has failed."""
    progress = service.repository.batches.progress(batch)
    found = _indices(progress, status, limit + 1, after)
    indices = found[:limit]
    entries = service.repository.batches.chosen(batch, indices)
    view = _JobView(service, batch, progress)
    calls = [partial(view.job, index, entries[index].name) for index in indices]
    jobs = [*service.store.at_once(calls)]
    return jobs, str(indices[-1]) if len(found) > limit else None


@dataclass(frozen=True)
class _JobView:
    """Tells how the pictures of a batch stand."""

    service: Service
    batch: Batch
    progress: BatchProgress

    def job(self, index: int, name: str) -> BatchJob:
        """One of them."""
        uuid, state = self.batch.uuid(index), EntryState(self.progress.states[index])
        error = self.progress.refused.get(index)
        if state is EntryState.FAILED and error is None:
            result = self.service.repository.result(uuid)
            error = result.error if result else None
        return BatchJob(index=index, name=name, uuid=uuid, status=_STATUSES[state], error=error)


def _indices(
    progress: BatchProgress, status: EntryStatus | None, limit: int, after: int
) -> list[int]:
    if status is None:
        return [*range(after + 1, min(after + 1 + limit, len(progress.states)))]
    return progress.indices(_STATES[status], limit, after)


def _place(after: str | None) -> int:
    if after is None:
        return -1
    if not (after.isascii() and after.isdecimal()):
        raise InvalidPageToken
    return int(after)
