"""Jobs by their ids: sent now, requested later."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import JSONResponse, Response

from api.auth import RequireKey
from api.error_responses import JobFinished, JobInProgress
from api.job_intake import accept_job
from api.openapi import (
    EVERYWHERE,
    IDEMPOTENCY_KEY,
    PREFERENCE_APPLIED,
    UPLOADING,
    failures,
    finished,
    finished_or_not,
    header,
    page_token,
    shown,
    unfinished,
)
from api.result_polling import read_preference, wait_for_result
from api.schemas import (
    CallbackRecorded,
    JobOptions,
    JobPage,
    JobRequest,
    PageSize,
)
from api.service import Service, ServiceDep, about_job, in_thread
from api.views import (
    JobView,
    accepted_response,
    page_response,
    record_response,
    view_accepted,
    view_job,
)
from seg_pipeline.domain import UUID_PATTERN, JobStatus, check_uuid
from seg_pipeline.errors import JobCancelled, JobNotFound, NothingToTell
from seg_pipeline.jobs.listing import Page

router = APIRouter(prefix="/jobs", tags=["jobs"], dependencies=[RequireKey])

Uuid = Annotated[
    str,
    Path(
        description="The job's id: 1 to 64 letters, digits, `-` and `_`.",
        json_schema_extra={"pattern": f"^{UUID_PATTERN}$"},
    ),
]

_ONE_JOB = finished_or_not("The job as it stands.")
_BODY: dict[str, Any] = {
    "parameters": [IDEMPOTENCY_KEY],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": JobRequest.model_json_schema()},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": {
                            "type": "string",
                            "format": "binary",
                            "description": "Any field name will do.",
                        },
                        **JobOptions.model_json_schema()["properties"],
                    },
                }
            },
        },
    },
}


@router.post(
    "",
    summary="Send a job without waiting for it",
    openapi_extra=_BODY,
    status_code=202,
    responses={
        200: _ONE_JOB | {"description": "The same job was sent before; this is how it stands."},
        202: unfinished("Accepted; it cannot get lost from here on."),
        **failures(
            *UPLOADING,
            *EVERYWHERE,
            "body_too_large",
            "unsupported_body",
            "invalid_url",
            "url_refused",
        ),
    },
)
async def post_job(
    request: Request, service: ServiceDep, options: Annotated[JobOptions, Query()]
) -> Response:
    """A picture's URL as JSON, or a picture in a form.

    The same uuid and request again is the same job.
    """
    accepted = await accept_job(request, service, options)
    view = await in_thread(view_accepted, service, accepted.job, service.base_url(request))
    return accepted_response(view, service.links(request), 202 if accepted.created else 200)


@router.get(
    "",
    summary="List jobs",
    response_model=JobPage,
    responses={
        200: {"description": "A page of jobs.", "content": shown("page")},
        **failures("invalid_request", *EVERYWHERE),
    },
)
async def list_jobs(
    request: Request,
    service: ServiceDep,
    status: Annotated[JobStatus | None, Query(description="Only these.")] = None,
    limit: PageSize = 50,
    after: Annotated[str | None, page_token(200)] = None,
) -> Response:
    """Queued, processing, failed, completed, in this order; each group by uuid."""
    page = await in_thread(_page, service, status, after, limit)
    jobs = [
        {"uuid": job.uuid, "status": str(job.status), "since": job.since.isoformat()}
        for job in page.jobs
    ]
    return page_response(
        service.links(request),
        "/jobs",
        {"jobs": jobs, "next": page.next},
        status=status,
        limit=limit,
    )


@router.get(
    "/{uuid}",
    summary="One job",
    responses={
        200: _ONE_JOB | {"headers": PREFERENCE_APPLIED},
        **failures("invalid_uuid", "job_not_found", *EVERYWHERE),
    },
    openapi_extra={
        "parameters": [header("Prefer", "`wait=N`: answer when the job ends, or after N seconds.")]
    },
)
async def get_job(request: Request, service: ServiceDep, uuid: Uuid) -> Response:
    """Queued, processing, completed with its segments, or failed with its reason; always 200.

    With `Prefer: wait=N` the answer comes when the job ends, after N seconds, or after
    `WAIT_SECONDS`.
    """
    about_job(request, check_uuid(uuid))
    preference = read_preference(request, service.settings.wait_seconds, usual_seconds=0)
    view = await in_thread(view_job, service, uuid, service.base_url(request))
    if not view.is_finished and preference.seconds > 0:
        await wait_for_result(request, service, uuid, preference.seconds)
        view = await in_thread(view_job, service, uuid, service.base_url(request))
    headers = {"Cache-Control": "no-store"}
    if preference.applied:
        headers["Preference-Applied"] = preference.applied
    return record_response(view.job, headers=headers)


@router.delete(
    "/{uuid}",
    summary="Delete a job and its files",
    status_code=204,
    response_class=Response,
    responses={
        202: unfinished(
            "A worker has it, and stops within seconds; it then is a failed job, `cancelled`."
        ),
        204: {"description": "Gone, with all its files."},
        **failures("invalid_uuid", "job_not_found", "job_in_progress", *EVERYWHERE),
    },
)
async def delete_job(request: Request, service: ServiceDep, uuid: Uuid) -> Response:
    """Deletes queued and finished jobs at once.

    A job that a worker has is cancelled; delete it again when it has stopped. One that the app
    server waits for is refused with 409.
    """
    about_job(request, check_uuid(uuid))
    if await in_thread(_delete, service, uuid):
        return Response(status_code=204)
    return await _unfinished_response(request, service, uuid)


@router.post(
    "/{uuid}/retry",
    summary="Run a failed job again",
    status_code=202,
    responses={
        202: unfinished("It waits again, and cannot get lost."),
        **failures("invalid_uuid", "job_not_found", "not_failed", "store_full", *EVERYWHERE),
    },
)
async def retry_job(request: Request, service: ServiceDep, uuid: Uuid) -> Response:
    """As if it had just come: with its options, under its uuid, and attempts counted anew.

    An app server that waits for the job is told again when it ends.
    """
    about_job(request, check_uuid(uuid))
    await in_thread(service.repository.retries.request, uuid)
    return await _unfinished_response(request, service, uuid)


@router.post(
    "/{uuid}/cancel",
    summary="Cancel a job",
    status_code=200,
    response_class=Response,
    responses={
        200: finished("It has ended as a failed job, `cancelled`, now or by a former request."),
        202: unfinished("A worker has it, and stops within seconds; it then has ended so."),
        **failures("invalid_uuid", "job_not_found", "job_finished", "store_full", *EVERYWHERE),
    },
)
async def cancel_job(request: Request, service: ServiceDep, uuid: Uuid) -> Response:
    """Ends a job that no worker has at once, whether it waits for its picture or for its run.

    A worker stops between two stages, or between two batches of points. The job and its reason can
    be asked for until it expires, and an app server that waits for it is told. A job that has ended
    otherwise is a 409.
    """
    about_job(request, check_uuid(uuid))
    view = await in_thread(_cancel, service, uuid, service.base_url(request))
    return accepted_response(view, service.links(request), 200 if view.is_finished else 202)


@router.post(
    "/{uuid}/callback",
    summary="Tell the app server again",
    status_code=202,
    response_model=CallbackRecorded,
    responses={
        202: {
            "description": "Recorded; it is sent in a moment, and tried again if need be.",
            "content": {"application/json": {"example": {"uuid": "abc123", "state": "pending"}}},
        },
        **failures("invalid_uuid", "job_not_found", "nothing_to_tell", "store_full", *EVERYWHERE),
    },
)
async def replay_callback(request: Request, service: ServiceDep, uuid: Uuid) -> Response:
    """For a delivery that was parked, or that the app server has lost.

    Only jobs that came by the queue have one.
    """
    about_job(request, check_uuid(uuid))
    state = await in_thread(_replay, service, uuid)
    return JSONResponse({"uuid": uuid, "state": state}, 202)


async def _unfinished_response(request: Request, service: Service, uuid: str) -> Response:
    """The job as it stands, and where to ask for it."""
    view = await in_thread(view_job, service, uuid, service.base_url(request))
    return accepted_response(view, service.links(request), 202)


def _replay(service: Service, uuid: str) -> str:
    if service.settings.app_server_url is None and service.repository.job(uuid).webhook is None:
        raise NothingToTell.to_nobody()
    return str(service.repository.outbox.replay(uuid).state)


def _page(service: Service, status: JobStatus | None, after: str | None, limit: int) -> Page:
    return service.repository.listing.page(status, after, limit, service.live_heartbeats())


def _delete(service: Service, uuid: str) -> bool:
    """Deletes the job. Returns False if it is only being cancelled."""
    try:
        status = service.repository.status(uuid, service.live_heartbeats())
    except JobNotFound:
        if not service.repository.removal.delete(uuid):  # else an acceptance had died half way
            raise
        return True
    if _is_awaited(service, uuid):
        raise JobInProgress(
            f"the app server has not been told of job {uuid} yet; delete it when it has."
        )
    if status is JobStatus.PROCESSING:
        service.repository.cancels.request(uuid)
        return False
    service.repository.removal.delete(uuid)
    return True


def _cancel(service: Service, uuid: str, base_url: str) -> JobView:
    """Cancels the job. Raises JobFinished if it has ended for another reason."""
    status = service.repository.status(uuid, service.live_heartbeats())
    if status is JobStatus.PROCESSING:
        service.repository.cancels.request(uuid)
    elif status is JobStatus.QUEUED:
        service.repository.cancels.end(uuid)
    result = service.repository.result(uuid)
    if result and not (result.error and result.error.code == JobCancelled.code):
        raise JobFinished(uuid, result.status)
    return view_job(service, uuid, base_url)


def _is_awaited(service: Service, uuid: str) -> bool:
    """Whether the app server still waits for the job, whose answer no client may remove."""
    if service.settings.app_server_url is None or not service.repository.job(uuid).callback:
        return False
    delivery = service.repository.outbox.delivery(uuid)
    return delivery is None or delivery.is_pending
