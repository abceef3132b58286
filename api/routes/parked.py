"""Parked messages and callbacks, which wait for a person.

These messages could not become jobs. These callbacks could not be delivered.
"""

from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import JSONResponse, Response

from api.auth import RequireKey
from api.openapi import EVERYWHERE, failures, page_token, shown
from api.schemas import PageSize, Replayed
from api.service import Service, ServiceDep, in_thread
from api.views import page_response
from seg_pipeline.adapters.sqs_consumer import accept_message
from seg_pipeline.errors import NothingToTell
from seg_pipeline.jobs.parked import Parked, ParkedItems, ParkedKind, ParkedList
from seg_pipeline.jobs.stored_jobs import read_job
from seg_pipeline.store import keys
from seg_pipeline.store.serialization import to_document

router = APIRouter(prefix="/parked", tags=["parked"], dependencies=[RequireKey])

Name = Annotated[str, Path(description="The `name` in the listing.")]


@router.get(
    "",
    summary="List what is parked",
    response_model=ParkedList,
    responses={
        200: {"description": "A page.", "content": shown("parked")},
        **failures("invalid_request", *EVERYWHERE),
    },
)
async def list_parked(
    request: Request,
    service: ServiceDep,
    limit: PageSize = 50,
    after: Annotated[str | None, page_token(200)] = None,
) -> Response:
    """Messages with bodies, callbacks with their jobs' uuids, each with the reason; by name."""
    page = await in_thread(_page, service, after, limit)
    return page_response(service.links(request), "/parked", to_document(page), limit=limit)


@router.post(
    "/{name}/replay",
    summary="Try it again",
    status_code=202,
    response_model=Replayed,
    responses={
        202: {
            "description": "A message is a job now; a callback is recorded, and sent in a moment.",
            "content": {
                "application/json": {"example": {"name": "callback-abc123", "uuid": "abc123"}}
            },
        },
        **failures(
            *(
                "parked_not_found",
                "not_replayable",
                "nothing_to_tell",
                "job_not_found",
                "job_conflict",
            ),
            *("invalid_request", "unknown_model", "store_full", *EVERYWHERE),
        ),
    },
)
async def replay(service: ServiceDep, name: Name) -> Response:
    """A message is read as if it came from the queue again.

    If it still cannot be a job, it stays parked, and the answer is the reason. A callback is
    delivered from the beginning. What is no longer parked is a 404.
    """
    uuid = await in_thread(_replay, service, name)
    return JSONResponse({"name": name, "uuid": uuid}, 202)


@router.delete(
    "/{name}",
    summary="Drop it",
    status_code=204,
    response_class=Response,
    responses={
        204: {"description": "Nobody will be told any more."},
        **failures("parked_not_found", *EVERYWHERE),
    },
)
async def drop(service: ServiceDep, name: Name) -> Response:
    """Removes it for good. A callback's job is kept no longer than others are."""
    await in_thread(_drop, service, name)
    return Response(status_code=204)


def _page(service: Service, after: str | None, limit: int) -> ParkedList:
    return ParkedItems(service.store).page(after, limit)


def _replay(service: Service, name: str) -> str:
    items = ParkedItems(service.store)
    parked = items.get(name)
    if parked.kind is ParkedKind.CALLBACK:
        if service.settings.app_server_url is None and not _has_webhook(service, parked):
            raise NothingToTell.to_nobody()
        items.replay_callback(parked)
        return parked.uuid or ""
    uuid = accept_message(items.message_of(parked), service.settings, service.repository)
    items.forget(parked)
    return uuid


def _has_webhook(service: Service, parked: Parked) -> bool:
    name = parked.uuid or ""
    if keys.batch_told(name) is not None:
        return keys.is_batch_webhook(name)
    job = read_job(service.store, name)
    return job is not None and job.webhook is not None


def _drop(service: Service, name: str) -> None:
    items = ParkedItems(service.store)
    items.drop(items.get(name))
