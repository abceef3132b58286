"""Stand-ins for what is not the API: a worker that finishes jobs without a model, a store that
fails on purpose."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from seg_pipeline.domain import Job, Segment
from seg_pipeline.errors import SegPipelineError
from seg_pipeline.imaging.cutouts import cut_out
from seg_pipeline.imaging.images import encode_original
from seg_pipeline.imaging.masks import encode_mask_png
from seg_pipeline.jobs.heartbeats import WorkerHeartbeat, write_heartbeat
from seg_pipeline.jobs.model_output import ModelOutput
from seg_pipeline.jobs.records import Result, completed_result, failed_result
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline_tests.builders import make_found, make_picture, make_timing, waiting_uuids

DRAWING = "..../.##./.##./...."


def finish_job(
    store: Store, uuid: str, *drawings: str, error: SegPipelineError | None = None
) -> None:
    """Does by hand what a run does: files, then the result through the real inbox."""
    repository = JobRepository(store)
    job = repository.job(uuid)
    timing = make_timing(datetime.now(UTC), datetime.now(UTC))
    if error:
        repository.results.finish(failed_result(job, error, timing))
    else:
        repository.results.finish(_complete(store, job, drawings))


def finish_with(store: Store, uuid: str, *segments: Segment) -> None:
    """The same with segments of the test's own, largest first."""
    repository = JobRepository(store)
    found = replace(
        make_found(), resolution_wh=segments[0].mask.resolution_wh, segments=list(segments)
    )
    repository.results.finish(_published(store, repository.job(uuid), found))


def _complete(store: Store, job: Job, drawings: tuple[str, ...]) -> Result:
    return _published(store, job, make_found(*drawings))


def _published(store: Store, job: Job, found: ModelOutput) -> Result:
    picture = make_picture(*found.resolution_wh)
    result = completed_result(job, found, make_timing(datetime.now(UTC), datetime.now(UTC)))
    store.put(keys.original(job.uuid), encode_original(picture))
    store.put(keys.overlay(job.uuid), encode_original(picture))
    for segment, entry in zip(found.segments, result.segments, strict=True):
        store.put(entry.mask_key, encode_mask_png(segment.mask))
        store.put(entry.crop_key, cut_out(picture, segment.mask, job.resize))
    return result


class FakeWorker:
    """A thread that takes jobs from the real inbox and finishes them all the same way; no Dagster,
    no model."""

    def __init__(self, store: Store, *drawings: str, error: SegPipelineError | None = None) -> None:
        self._store, self._drawings, self._error = store, drawings, error
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> "FakeWorker":
        heartbeat(self._store)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        repository = JobRepository(self._store)
        while not self._stop.wait(0.01):
            for claim in repository.claims.claim(waiting_uuids(repository, 10), "fake"):
                finish_job(self._store, claim.uuid, *self._drawings, error=self._error)


def heartbeat(store: Store, *uuids: str, models: tuple[str, ...] = ()) -> None:
    """A worker's sign of life, working on these jobs, with these models in memory."""
    now = datetime.now(UTC)
    beat = WorkerHeartbeat("fake", 1, "here", beat_at=now, started_at=now, uuids=uuids)
    write_heartbeat(store, replace(beat, models=models))


class FailingStore:
    """A real store whose writes to matching keys raise an error while there is one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.error: Exception | None = None
        self.fails_on: Callable[[str], bool] = lambda key: True

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name in ("file_name", "url"):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.error and self.fails_on(args[0] if args else ""):
                raise self.error
            return method(*args, **kwargs)

        return call
