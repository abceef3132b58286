"""Jobs as answers."""

from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse, Response

from api.error_responses import failure_response, no_masks_found
from api.links import Links
from api.service import Service
from seg_pipeline.domain import Job, JobStatus
from seg_pipeline.errors import JobNotFound, StoreUnavailable
from seg_pipeline.jobs.answers import FinishedJob, UnfinishedJob, finished_job, unfinished_job
from seg_pipeline.jobs.records import OUTCOMES
from seg_pipeline.store.serialization import write

ASK_AGAIN_SECONDS = 1
"""The `Retry-After` of a job that has not finished."""


@dataclass(frozen=True)
class JobView:
    """A job as clients see it, and whether that is final."""

    job: FinishedJob | UnfinishedJob
    is_finished: bool


def view_job(service: Service, uuid: str, base_url: str) -> JobView:
    """The job as it stands now; blocking. Raises JobNotFound."""
    result = service.repository.result(uuid)
    if result is None:
        status = service.repository.status(uuid, service.live_heartbeats())
        if status not in OUTCOMES:
            return JobView(unfinished_job(service.repository.job(uuid), status), is_finished=False)
        result = service.repository.result(uuid)
    if result is None:
        raise JobNotFound(uuid)
    return JobView(finished_job(result, service.files, base_url), is_finished=True)


def view_accepted(service: Service, job: Job, base_url: str) -> JobView:
    """The same for a job that was just accepted, even if the store fails now."""
    try:
        return view_job(service, job.uuid, base_url)
    except StoreUnavailable:
        return JobView(unfinished_job(job, JobStatus.QUEUED), is_finished=False)


def segments_response(job: FinishedJob) -> Response:
    """The answer of the waiting routes: the segments, or the reason why there are none."""
    if job.error:
        return failure_response(job.error.code, job.error.message, job.uuid)
    return record_response(job) if job.segments else no_masks_found()


def record_response(
    record: object, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """A record as JSON."""
    return Response(write(record), status, headers, media_type="application/json")


def accepted_response(view: JobView, links: Links, status: int) -> Response:
    """A job, where to ask for it, and with 202 also when."""
    headers = {"Location": links.job(view.job.uuid)}
    if status == 202:
        headers["Retry-After"] = str(ASK_AGAIN_SECONDS)
    return record_response(view.job, status, headers)


def page_response(links: Links, path: str, body: dict[str, Any], **query: Any) -> JSONResponse:
    """A page of a listing, with a link to the next page (RFC 8288)."""
    response = JSONResponse(body)
    if body["next"]:
        response.headers["Link"] = f'<{links.to(path, **query, after=body["next"])}>; rel="next"'
    return response
