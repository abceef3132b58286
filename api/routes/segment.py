"""The replaced service's routes: a picture in, its segments out, in one request."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from api.auth import RequireKey
from api.job_intake import accept_upload
from api.openapi import (
    EVERYWHERE,
    IDEMPOTENCY_KEY,
    UPLOADING,
    failures,
    finished,
    header,
    unfinished,
)
from api.result_polling import read_preference, wait_for_result
from api.schemas import Resize, UploadOptions
from api.service import Service, ServiceDep, in_thread
from api.views import accepted_response, segments_response, view_accepted
from seg_pipeline.jobs.answers import finished_job

router = APIRouter(tags=["segment"], dependencies=[RequireKey])

_RESPONSES = {
    200: finished("The segments: the original first, then a cut-out each."),
    202: unfinished("Accepted, not finished within the time to wait."),
    **failures(
        *("no_masks_found", *UPLOADING, *EVERYWHERE),
        *("model_failed", "model_out_of_memory", "weights_missing", "worker_lost"),
    ),
}
_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The picture's bytes, whatever they are called, or a form with one file.",
        "content": {
            "image/*": _PICTURE,
            "application/octet-stream": _PICTURE,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {
                            "type": "string",
                            "format": "binary",
                            "description": "Any field name will do.",
                        },
                        **UploadOptions.model_json_schema()["properties"],
                    },
                }
            },
        },
    },
    "parameters": [
        header("Prefer", "`respond-async`: answer 202 at once; `wait=N`: wait at most N seconds."),
        IDEMPOTENCY_KEY,
    ],
}


@router.post("/segment", summary="Segment a picture", responses=_RESPONSES, openapi_extra=_BODY)
async def segment(
    request: Request, service: ServiceDep, options: Annotated[UploadOptions, Query()]
) -> Response:
    """Waits for the result, at most `WAIT_SECONDS`; then answers 202 with the job's URL."""
    return await segment_upload(request, service, options, None)


@router.post(
    "/segment/{resize}",
    summary="Segment a picture and resize the cut-outs",
    responses=_RESPONSES,
    openapi_extra=_BODY,
)
async def segment_resized(
    request: Request,
    service: ServiceDep,
    options: Annotated[UploadOptions, Query()],
    resize: Annotated[Resize, Path()],
) -> Response:
    """The same, and each cut-out's longer side becomes `resize` pixels, upscaled if necessary."""
    return await segment_upload(request, service, options, resize)


async def segment_upload(
    request: Request, service: Service, options: UploadOptions, resize: int | None
) -> Response:
    """Accepts the upload, waits for its result as long as the client wants, and answers."""
    preference = read_preference(request, service.settings.wait_seconds)
    job = (await accept_upload(request, service, options, resize)).job
    result = await wait_for_result(request, service, job.uuid, preference.seconds)
    if result:
        response = segments_response(finished_job(result, service.files, service.base_url(request)))
    else:
        view = await in_thread(view_accepted, service, job, service.base_url(request))
        response = accepted_response(view, service.links(request), 202)
    response.headers["X-Job-Uuid"] = job.uuid
    if preference.applied:
        response.headers["Preference-Applied"] = preference.applied
    return response
