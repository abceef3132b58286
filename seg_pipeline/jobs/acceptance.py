"""The acceptance of jobs: after it, a job cannot get lost."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from io import SEEK_END
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from seg_pipeline.domain import Job
from seg_pipeline.errors import JobConflict, ObjectNotFound, StoreError, StoreUnavailable
from seg_pipeline.imaging.headers import scan_header
from seg_pipeline.jobs.inbox_markers import ready_marker
from seg_pipeline.jobs.outbox import Outbox
from seg_pipeline.jobs.removal import Removal
from seg_pipeline.jobs.stored_jobs import is_known, read_job, read_result
from seg_pipeline.prompts import check_inside_either_way
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import write
from seg_pipeline.telemetry import metrics

_TRIES = 5
_ACCEPTED_WITHIN = timedelta(seconds=60)
"""An acceptance that has written only its request by then has died."""


@dataclass(frozen=True)
class Accepted:
    """The job that a uuid stands for, and whether this very call made it."""

    job: Job
    created: bool


def fingerprint(data: bytes) -> str:
    """SHA-256 of an upload, 64 hex digits: the `source_sha256` of its job."""
    return hashlib.sha256(data).hexdigest()


def job_of_picture(file: BinaryIO, sha256: str, most_pixels: int, **asked: Any) -> Job:
    """The job of an upload, whose header alone is read. Raises RequestError or ImageError."""
    header = scan_header(file, most_pixels)
    job = Job(source_sha256=sha256, source_extension=header.extension, **asked)
    if header.size_wh:
        check_inside_either_way(job.parameters, header.size_wh)
    return job


def job_of_bytes(data: bytes, most_pixels: int, **asked: Any) -> Job:
    """The job of a picture in memory. Raises RequestError or ImageError."""
    with TemporaryFile() as file:
        file.write(data)
        file.flush()
        return job_of_picture(file, fingerprint(data), most_pixels, **asked)


class Acceptance:
    """Accepts jobs into a store."""

    def __init__(self, store: Store, outbox: Outbox, removal: Removal) -> None:
        self._store = store
        self._outbox = outbox
        self._removal = removal

    def accept(
        self, job: Job, data: bytes | BinaryIO | None = None, end: Callable[[], bool] | None = None
    ) -> Accepted:
        """Makes the job durable and visible to the sensor.

        An upload needs its bytes in `data`, or in an open file (see `Store.put_file`). Their
        fingerprint is the job's `source_sha256`.

        The same request again gives the first job and `created=False`. This holds for requests at
        the same time elsewhere too. It completes an acceptance that died half way. If only the
        second request has a callback, the app server is told of the first job.

        Another request under the same uuid raises JobConflict, and nothing is written. If an
        acceptance died half way, another request takes its place a minute later. If the store
        fails, this call takes back what it began.

        `end` may end a new job at once, and says whether it did. Such a job never waits. It lasts
        as any result does: a power cut within half a minute may take it.
        """
        if (data is None) != (job.source_sha256 is None):
            raise ValueError(
                f"job {job.uuid}: an upload needs its bytes, a job with image_url has none"
            )
        for turn in range(_TRIES):
            accepted = self._record(job, lasting=end is None)
            if accepted is None:
                continue
            if accepted.created and end is not None:
                if end():
                    metrics.JOBS_ACCEPTED.labels(job.via).inc()
                    return accepted
                self._make_last(accepted)
            if job.callback and not accepted.created:
                accepted = Accepted(self._promise_callback(accepted.job), created=False)
            is_new = turn > 0 or accepted.created or not is_known(self._store, job.uuid)
            with self._withdrawn_if_it_fails(accepted, data):
                self._store_source(accepted.job, data, is_new)
                if is_new:
                    self._store.create(*_first_marker(accepted.job))
            # A deletion of the uuid's former job may have taken the request: then once more.
            if self._store.head(keys.request(job.uuid)):
                metrics.JOBS_ACCEPTED.labels(job.via).inc(accepted.created)
                return accepted
        raise StoreUnavailable(f"job {job.uuid} is being deleted again and again; try later.")

    def _make_last(self, accepted: Accepted) -> None:
        """Writes the request once more, so that it survives a power cut."""
        key = keys.request(accepted.job.uuid)
        with self._withdrawn_if_it_fails(accepted, None), suppress(ObjectNotFound):
            self._store.put(key, self._store.get(key))

    def _record(self, job: Job, *, lasting: bool) -> Accepted | None:
        """Writes the request or finds the one that is there; None if that vanished meanwhile."""
        if self._store.create(keys.request(job.uuid), write(job), lasting=lasting):
            return Accepted(job, created=True)
        first = read_job(self._store, job.uuid)
        if first is None and self._store.head(keys.request(job.uuid)):
            self._store.put(keys.request(job.uuid), write(job))  # what was there is no job
            return Accepted(job, created=True)
        if first is not None and not first.asks_the_same_as(job):
            if not self._is_abandoned(job.uuid):
                raise JobConflict(job.uuid)
            self._removal.remove_leftovers(job.uuid)
            return None
        return Accepted(first, created=False) if first else None

    def _is_abandoned(self, uuid: str) -> bool:
        """Whether nothing leads to the request, and it is too old for anybody to complete it."""
        request = self._store.head(keys.request(uuid))
        is_old = (
            request is not None and request.last_modified < datetime.now(UTC) - _ACCEPTED_WITHIN
        )
        return is_old and not is_known(self._store, uuid)

    @contextmanager
    def _withdrawn_if_it_fails(
        self, accepted: Accepted, data: bytes | BinaryIO | None
    ) -> Iterator[None]:
        """If the store fails, takes back what this call began, as far as the store allows."""
        try:
            yield
        except StoreError:
            if accepted.created:
                with suppress(StoreError):
                    self._withdraw(accepted.job, data)
            raise

    def _withdraw(self, job: Job, data: bytes | BinaryIO | None) -> None:
        """Takes back a job without a marker.

        Another process may accept the same job meanwhile. It has then made a marker, and the job
        is its own: request and source are put back.
        """
        if self._removal.withdraw(job.uuid) and self._store.head(keys.inbox(job.uuid)):
            self._store_source(job, data, is_new=True)

    def _store_source(self, job: Job, data: bytes | BinaryIO | None, is_new: bool) -> None:
        """Writes an upload's bytes.

        The bytes of a known job are there already, unless somebody is about to delete it.
        """
        if data is None:
            return
        key = keys.source(job.uuid, job.source_extension or "bin")
        info = None if is_new else self._store.head(key)
        if info is None or info.size != _size(data):
            self._put_source(key, data)

    def _put_source(self, key: str, data: bytes | BinaryIO) -> None:
        if isinstance(data, bytes):
            self._store.put(key, data)
        else:
            self._store.put_file(key, data)

    def _promise_callback(self, job: Job) -> Job:
        """Has the app server told of a job that was there already.

        The request is written before the result is read. A run that finishes the job writes and
        reads in the reverse order, so one of the two sees the other. The result is read even if
        the request has the callback: its writer may have died before it read the result.
        """
        promised = replace(job, callback=True)
        if not job.callback:
            self._store.put(keys.request(job.uuid), write(promised))
        stored = read_result(self._store, job.uuid)
        if stored is not None:
            self._outbox.record(stored)
        return promised


def _size(data: bytes | BinaryIO) -> int:
    return len(data) if isinstance(data, bytes) else data.seek(0, SEEK_END)


def _first_marker(job: Job) -> tuple[str, bytes]:
    """Where an accepted job waits first, for its picture or for its run, and with which marker."""
    if job.image_url:
        return keys.fetching(job.uuid), b""
    return keys.inbox(job.uuid), ready_marker(job)
