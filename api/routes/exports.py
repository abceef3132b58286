"""A finished job's segments in the forms that other programs read."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from enum import StrEnum
from importlib.metadata import version
from itertools import chain
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from api.auth import RequireKey
from api.error_responses import AssetNotFound, JobFailed, JobInProgress
from api.openapi import EVERYWHERE, UNCHANGED, failures, shown
from api.routes.assets import knows
from api.routes.jobs import Uuid
from api.service import Service, ServiceDep, about_job, in_thread
from api.views import view_job
from seg_pipeline.domain import check_uuid
from seg_pipeline.errors import InvalidRequest, ObjectNotFound
from seg_pipeline.exports import FORMATS, Export, ExportedPicture, ExportFormat
from seg_pipeline.jobs.answers import FinishedJob, UnfinishedJob
from seg_pipeline.jobs.job_files import JobFiles
from seg_pipeline.store.serialization import to_document

router = APIRouter(tags=["files"], dependencies=[RequireKey])

SEND_SECONDS = 60.0
"""A client that takes no piece for so long gives up its turn."""

_PIECE_BYTES = 64 * 1024

FormatName = StrEnum("FormatName", {name.replace("-", "_"): name for name in FORMATS})  # type: ignore[misc]

_CONTENT: dict[str, Any] = {
    each.media_type: {"schema": {"type": "string", "format": "binary"}} for each in FORMATS.values()
} | {"application/json": {"schema": {"type": "object"}, **shown("coco")["application/json"]}}

_DESCRIPTION = "\n".join(f"- `{each.name}`: {each.description}" for each in FORMATS.values())


class ExportQuery(BaseModel):
    """Which export, and how it is made."""

    format: FormatName = Field(description="What to make of it.")
    segment: int | None = Field(
        None, ge=0, description="`mask`: which segment, by its `segment_id`."
    )
    tolerance: float | None = Field(
        None,
        ge=0,
        le=16,
        allow_inf_nan=False,
        description="Formats of polygons: how far they may lie from the mask's edge, in pixels; 0"
        " is exact.",
    )
    file_name: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="`coco`, `polygons`, `labelme`: what the picture is called in the document;"
        " `{uuid}.webp` if absent.",
    )


class ExportResponse(StreamingResponse):
    """A file that is made while it is sent. `turn` ends with it, however it ends."""

    def __init__(self, pieces: Iterator[bytes], turn: AsyncExitStack, **options: Any) -> None:
        super().__init__(pieces, **options)
        self._turn = turn

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""

        async def send_in_time(message: Message) -> None:
            with anyio.fail_after(SEND_SECONDS):
                await send(message)

        async with self._turn:
            await super().__call__(scope, receive, send_in_time)


@router.get(
    "/jobs/{uuid}/export",
    summary="A completed job's segments in another format",
    response_class=Response,
    responses={
        200: {"description": f"The file, in pieces.\n\n{_DESCRIPTION}", "content": _CONTENT},
        **UNCHANGED,
        **failures(
            *("invalid_request", "invalid_uuid", "job_not_found", "asset_not_found"),
            *("job_in_progress", "job_failed", "busy", "output_too_large", *EVERYWHERE),
        ),
    },
)
async def get_export(
    request: Request,
    service: ServiceDep,
    uuid: Uuid,
    query: Annotated[ExportQuery, Query()],
) -> Response:
    """COCO, YOLO, polygons, labelme, label map, grey masks, or all of it as a ZIP.

    The file is made from the stored masks while it is sent. A job that has not completed is refused
    with 409.
    """
    about_job(request, check_uuid(uuid))
    chosen = FORMATS[query.format]
    _check_options(chosen, query.model_dump(exclude={"format"}))
    picture = await in_thread(_picture, request, service, uuid, query.file_name)
    segment = _segment_of(picture, query.segment)
    export = Export(picture, JobFiles(service.store, uuid), query.tolerance, segment)
    headers = _headers(export, chosen)
    if (answer := answer_without_body(request, headers, chosen.media_type)) is not None:
        return answer
    return await _response(service, export, chosen, headers)


router.head("/jobs/{uuid}/export", include_in_schema=False)(get_export)


async def _response(
    service: Service, export: Export, chosen: ExportFormat, headers: dict[str, str]
) -> Response:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(service.admission.exports.turn())
        pieces = await in_thread(_begun, chosen, export)
        return ExportResponse(
            pieces, stack.pop_all(), headers=headers, media_type=chosen.media_type
        )


def answer_without_body(
    request: Request, headers: dict[str, str], media_type: str
) -> Response | None:
    """304 if the client has the file, or the answer to HEAD; None if the file is to be sent."""
    if knows(request.headers.get("if-none-match", ""), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if request.method != "HEAD":
        return None
    response = Response(headers=headers, media_type=media_type)
    del response.headers["content-length"]  # it is not known before the file is made
    return response


def export_headers(made_of: object, file_name: str) -> dict[str, str]:
    """The headers of an exported file, with a weak tag: made again, it may differ in trifles."""
    tag = hashlib.sha256(repr(made_of).encode()).hexdigest()[:32]
    return {
        "ETag": f'W/"{tag}"',
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f'attachment; filename="{file_name}"',
        "X-Content-Type-Options": "nosniff",
    }


def _picture(
    request: Request, service: Service, uuid: str, file_name: str | None
) -> ExportedPicture:
    """The picture of a completed job; blocking. Raises what stands in the way."""
    job = _completed(view_job(service, uuid, service.base_url(request)).job)
    return ExportedPicture.of(to_document(job), file_name)


def _segment_of(picture: ExportedPicture, segment: int | None) -> int:
    """The segment asked for. Raises AssetNotFound if the picture has none such."""
    if segment is not None and segment >= len(picture.segments):
        raise AssetNotFound(
            f"job {picture.uuid} has no segment {segment}; it has {len(picture.segments)}, numbered"
            " from 0."
        )
    return segment or 0


def _completed(job: FinishedJob | UnfinishedJob) -> FinishedJob:
    if isinstance(job, UnfinishedJob):
        raise JobInProgress(f"job {job.uuid} is {job.status}; export it when it has completed.")
    if job.error:
        raise JobFailed(job.uuid, job.error.code, job.error.message)
    return job


def _check_options(chosen: ExportFormat, options: Mapping[str, Any]) -> None:
    """Refuses options that the format does not take, and a mask of no segment."""
    for name, value in options.items():
        if value is not None and name not in chosen.options:
            takers = [each.name for each in FORMATS.values() if name in each.options]
            raise InvalidRequest(f"{name} goes with format {', '.join(takers)} alone.")
    if "segment" in chosen.options and options["segment"] is None:
        raise InvalidRequest(f"format {chosen.name} needs a segment, such as segment=0.")


def _headers(export: Export, chosen: ExportFormat) -> dict[str, str]:
    picture = export.picture
    made_of = (picture.uuid, picture.completed_at.isoformat(), version("seg-pipeline"))
    asked = (chosen.name, export.tolerance, export.segment_id, picture.name)
    number = f"-{export.segment_id:03d}" if "segment" in chosen.options else ""
    return export_headers((made_of, asked), f"{picture.uuid}{number}{chosen.suffix}")


def _begun(chosen: ExportFormat, export: Export) -> Iterator[bytes]:
    """The file, of which the first piece is made: what is wrong with that is answered."""
    pieces = gathered(chosen.write(export))
    try:
        return chain([next(pieces)], pieces)
    except ObjectNotFound as error:
        raise AssetNotFound(
            f"a file of job {export.picture.uuid} is missing; the job may have just expired."
        ) from error


def gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of some 64 KiB, since each takes a thread for a while."""
    gathered = bytearray()
    for piece in pieces:
        gathered += piece
        if len(gathered) >= _PIECE_BYTES:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered)
