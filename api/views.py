"""Jobs as answers."""

from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse

from api.error_responses import failure_response, no_masks_found
from api.links import Links
from api.service import Service
from seg_pipeline.domain import Job, JobStatus
from seg_pipeline.errors import JobNotFound, StoreUnavailable
from seg_pipeline.jobs.result_document import answer_document, unfinished_document

FINISHED = (JobStatus.COMPLETED, JobStatus.FAILED)


@dataclass(frozen=True)
class JobView:
    """A job as clients see it: the document, and whether it is the last word."""

    document: dict[str, Any]
    is_finished: bool


def view_job(service: Service, uuid: str, base_url: str) -> JobView:
    """The job as it stands now; blocking. Raises JobNotFound."""
    result = service.inbox.result(uuid)
    if result is None:
        status = service.inbox.status(uuid, service.live_beats())
        if status not in FINISHED:
            return JobView(unfinished_document(service.inbox.job(uuid), status), is_finished=False)
        result = service.inbox.result(uuid)
    if result is None:
        raise JobNotFound(uuid)
    return JobView(answer_document(result, service.files, base_url), is_finished=True)


def view_accepted(service: Service, job: Job, base_url: str) -> JobView:
    """The same for a job that was just accepted: whatever happens to the store now, it was."""
    try:
        return view_job(service, job.uuid, base_url)
    except StoreUnavailable:
        return JobView(unfinished_document(job, JobStatus.QUEUED), is_finished=False)


def segments_response(document: dict[str, Any]) -> JSONResponse:
    """The waiting routes' answer: the segments, or the reason why there are none."""
    if document["status"] == JobStatus.FAILED:
        error = document["error"]
        return failure_response(error["code"], error["message"], document["uuid"])
    return JSONResponse(document) if document["segments"] else no_masks_found()


def accepted_response(view: JobView, links: Links, status: int) -> JSONResponse:
    """A job, and where to ask for it."""
    return JSONResponse(view.document, status, {"Location": links.job(view.document["uuid"])})


def page_response(links: Links, path: str, body: dict[str, Any], **query: Any) -> JSONResponse:
    """A page of a listing, whose `next` is also a link to the page that follows (RFC 8288)."""
    response = JSONResponse(body)
    if body["next"]:
        response.headers["Link"] = f'<{links.to(path, **query, after=body["next"])}>; rel="next"'
    return response
