"""One file of all that a batch found."""

from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.auth import RequireKey
from api.error_responses import JobInProgress
from api.openapi import EVERYWHERE, UNCHANGED, failures, shown
from api.routes.batches import Uuid
from api.routes.exports import ExportResponse, answer_without_body, export_headers, gathered
from api.service import Service, ServiceDep, about_job, in_thread
from seg_pipeline.domain import check_batch_id, shown_model
from seg_pipeline.exports import Export, ExportedPicture, PictureSet, coco_of_many
from seg_pipeline.jobs.answers import finished_job
from seg_pipeline.jobs.batch_records import Batch, BatchProgress, Entry, EntryState
from seg_pipeline.jobs.job_files import JobFiles
from seg_pipeline.store.serialization import to_document

router = APIRouter(tags=["files"], dependencies=[RequireKey])

READ_AT_ONCE = 16
"""Results that are read together: in a bucket, one by one would take long."""

JSON = "application/json"
_CONTENT = {JSON: {"schema": {"type": "object"}, **shown("coco")[JSON]}}


@router.get(
    "/batches/{uuid}/export",
    summary="All that a batch found, in one file",
    response_class=Response,
    responses={
        200: {
            "description": "COCO's document in pieces; `file_name` is the picture's name or"
            " address.",
            "content": _CONTENT,
        },
        **UNCHANGED,
        **failures(
            *("invalid_request", "invalid_uuid", "batch_not_found", "job_in_progress", "busy"),
            *EVERYWHERE,
        ),
    },
)
async def get_batch_export(
    request: Request,
    service: ServiceDep,
    uuid: Uuid,
    format: Annotated[Literal["coco"], Query(description="What to make of it.")] = "coco",
) -> Response:
    """The pictures that completed, in the batch's order, with every mask as run lengths.

    The file is made from the stored masks while it is sent. A batch that has not ended is refused
    with 409.
    """
    about_job(request, check_batch_id(uuid))
    batch = await in_thread(service.repository.batches.get, uuid)
    progress = await in_thread(_ended, service, batch)
    headers = _headers(batch, progress)
    if (answer := answer_without_body(request, headers, JSON)) is not None:
        return answer
    pieces = gathered(coco_of_many(_pictures(service, batch, progress, service.base_url(request))))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(service.admission.exports.turn())
        return ExportResponse(pieces, stack.pop_all(), headers=headers, media_type=JSON)


router.head("/batches/{uuid}/export", include_in_schema=False)(get_batch_export)


def _ended(service: Service, batch: Batch) -> BatchProgress:
    """How the batch ended; blocking. Raises JobInProgress if it has not."""
    progress = service.repository.batches.progress(batch)
    if progress.ended_at is None:
        raise JobInProgress(
            f"{batch.total - progress.ended} of {batch.total} pictures of batch {batch.id} have not"
            " ended; export it when all have."
        )
    return progress


def _pictures(service: Service, batch: Batch, progress: BatchProgress, base_url: str) -> PictureSet:
    title = f"Batch {batch.id}, segmented by {shown_model(batch.model)}"
    reader = _Reader(service, batch, progress, base_url)
    return PictureSet(title, progress.changed_at, reader.pictures)


@dataclass(frozen=True)
class _Reader:
    """Reads the results of a batch, some at a time."""

    service: Service
    batch: Batch
    progress: BatchProgress
    base_url: str

    def pictures(self) -> Iterator[tuple[int, Export]]:
        """All pictures that completed and are still there, numbered from 1 by their places."""
        completed = self.progress.indices(EntryState.COMPLETED)
        for first in range(0, len(completed), READ_AT_ONCE):
            indices = completed[first : first + READ_AT_ONCE]
            entries = self.service.repository.batches.chosen(self.batch, indices)
            calls = [partial(self._export, index, entries[index]) for index in indices]
            found = self.service.store.at_once(calls)
            yield from (
                (index + 1, export) for index, export in zip(indices, found, strict=True) if export
            )

    def _export(self, index: int, entry: Entry) -> Export | None:
        """The picture; None if its job was deleted or is run again just now."""
        uuid = self.batch.uuid(index)
        result = self.service.repository.result(uuid)
        if result is None or result.error:
            return None
        answer = to_document(finished_job(result, self.service.files, self.base_url))
        picture = ExportedPicture.of(answer, entry.name)
        return Export(picture, JobFiles(self.service.store, uuid))


def _headers(batch: Batch, progress: BatchProgress) -> dict[str, str]:
    made_of = (batch.id, progress.states, progress.changed_at.isoformat(), version("seg-pipeline"))
    return export_headers(made_of, f"{batch.id}.coco.json")
