"""Where a job stands, told as it changes."""

from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.admission import client_of
from api.auth import RequireKey
from api.event_stream import EventStream
from api.openapi import EVERYWHERE, failures, header
from api.routes.jobs import Uuid
from api.service import ServiceDep, about_job
from seg_pipeline.domain import check_uuid

router = APIRouter(tags=["jobs"], dependencies=[RequireKey])

_STREAM: dict[str, Any] = {
    "text/event-stream": {
        "schema": {"type": "string"},
        "example": (
            "id: processing-1736164800300000\nevent: progress\n"
            'data: {"uuid":"abc123","status":"processing","stage":"segments","done":128,'
            '"total":1024}\n\n'
        ),
    }
}


@router.get(
    "/jobs/{uuid}/events",
    summary="A job's progress, as server-sent events",
    response_class=Response,
    responses={
        200: {"description": "Events until the job's end.", "content": _STREAM},
        204: {"description": "The client has the job's last event: it need not ask again."},
        **failures(
            *("invalid_uuid", "job_not_found", "too_many_requests", "busy", *EVERYWHERE),
        ),
    },
    openapi_extra={
        "parameters": [header("Last-Event-ID", "The id of the last event that the client has.")]
    },
)
async def get_events(request: Request, service: ServiceDep, uuid: Uuid) -> Response:
    """`progress` with the status, the stage and of a SAM-2 the points; then `end`, and the close.

    An event is a state, and the first one is the present one. Of quick changes the last alone may
    come. Nothing is missed by coming back: the next event is the state at that time, unless it is
    the one of `Last-Event-ID`.
    """
    about_job(request, check_uuid(uuid))
    async with AsyncExitStack() as stack:
        stack.enter_context(service.admission.listeners.hold(client_of(request)))
        listener = await stack.enter_async_context(service.events.listen(uuid))
        if request.method == "HEAD":
            return Response(media_type=EventStream.media_type)
        last_id = request.headers.get("last-event-id", "")
        if listener.has_only(last_id):
            return Response(status_code=204)
        return EventStream(listener, stack.pop_all(), last_id)


router.head("/jobs/{uuid}/events", include_in_schema=False)(get_events)
