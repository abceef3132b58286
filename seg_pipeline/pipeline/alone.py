"""Segments pictures in this process alone: a job's stages over a store in memory."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from uuid import uuid4

from seg_pipeline.adapters.image_fetch import fetch_image
from seg_pipeline.adapters.public_network import PublicNetwork, Resolver
from seg_pipeline.domain import Job, Parameters
from seg_pipeline.exports import FORMATS, Export, ExportedPicture
from seg_pipeline.jobs.acceptance import job_of_bytes
from seg_pipeline.jobs.answers import finished_job
from seg_pipeline.jobs.job_files import JobFiles
from seg_pipeline.pipeline import stages
from seg_pipeline.pipeline.stages import StageContext
from seg_pipeline.segmenters.warm import WarmModels
from seg_pipeline.settings import Settings
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline.store.serialization import to_document

_STAGES = (
    stages.prepare_sources,
    stages.find_segments,
    stages.cut_segments,
    stages.publish_results,
)
_ADDRESSES = ("file_names", "urls", "overlay_url", "expires_at")
_ADDRESSES_OF_SEGMENT = ("mask_url", "crop_url")


@dataclass(frozen=True)
class SegmentedAlone:
    """A picture that was segmented here. It is gone when its block ends."""

    name: str
    full_answer: Mapping[str, Any]
    files: JobFiles

    @property
    def answer(self) -> dict[str, Any]:
        """The job's document without addresses, since nobody serves them."""
        segments = [_without(each, _ADDRESSES_OF_SEGMENT) for each in self.full_answer["segments"]]
        return {**_without(self.full_answer, _ADDRESSES), "segments": segments}

    def export(self, name: str) -> Iterator[bytes]:
        """The picture in a format of exports, in pieces."""
        picture = ExportedPicture.of(self.full_answer, self.name)
        return FORMATS[name].write(Export(picture, self.files))


class Alone:
    """Segments pictures with MODEL, which is loaded for the first and stays.

    Threads may share it. One picture is segmented at a time.
    """

    def __init__(
        self, settings: Settings, parameters: Parameters | None = None, resize: int | None = None
    ) -> None:
        self._settings = settings
        self._options: dict[str, Any] = {"parameters": parameters or {}, "resize": resize}
        self._context = StageContext(settings, ObjectStore.in_memory(), WarmModels(settings))
        self._turn = threading.Lock()

    @contextmanager
    def segment(
        self, name: str, picture: bytes | None, url: str | None
    ) -> Iterator[SegmentedAlone]:
        """The picture's segments, of its bytes or its address. Raises SegPipelineError."""
        data = picture if picture is not None else self._fetched(url or "")
        repository, job = self._context.repository, self._job(data)
        repository.acceptance.accept(job, data)
        try:
            with self._turn:
                _run_stages(self._context, job.uuid)
            yield _segmented(self._context, job.uuid, name)
        finally:
            repository.removal.delete(job.uuid)

    def _job(self, data: bytes) -> Job:
        named = {"uuid": uuid4().hex, "model": self._settings.model}
        return job_of_bytes(data, self._settings.max_image_pixels, **named, **self._options)

    def _fetched(self, url: str) -> bytes:
        body = BytesIO()

        async def fetch() -> None:
            network = PublicNetwork(Resolver(), self._settings.allow_private_urls)
            await fetch_image(url, body, self._settings, network)

        asyncio.run(fetch())
        return body.getvalue()


def _run_stages(context: StageContext, uuid: str) -> None:
    with context.one_run():
        for stage in _STAGES:
            report = stage(context, [uuid])
            if error := report.errors.get(uuid):
                raise error


def _segmented(context: StageContext, uuid: str, name: str) -> SegmentedAlone:
    result = context.repository.result(uuid)
    assert result is not None, "the last stage writes it"
    answer = to_document(finished_job(result, context.store, ""))
    return SegmentedAlone(name, answer, JobFiles(context.store, uuid))


def _without(document: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}
