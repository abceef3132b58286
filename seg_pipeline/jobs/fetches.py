"""Pictures to fetch, in the store: a job's marker, its tries so far, and what came in the end.

    accept    request.json → fetching/{uuid}                 see `repository`
    retry     source.fetch-….json                            tries, and when the next one is due
    end       source.fetched-… → source.fetch-….json → inbox/{uuid} → no fetching/{uuid}
    run       source.<ext> → source.json → no source.fetched-…               see `stages`
    refused   source.fetch-….json → no source.fetched-…      what came is no picture

The record is the truth. Record and bytes are named by their request: so nothing of a deleted job is
taken for its successor's. A fetcher may die between any two writes. Several fetchers may do the
same at once. At worst, a picture is fetched twice.
"""

import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

from seg_pipeline.domain import Job, Moment
from seg_pipeline.errors import (
    FetchError,
    FetchGivenUp,
    FetchRejected,
    ImageError,
    ImageTooLarge,
    InvalidUrl,
    ObjectNotFound,
    SegPipelineError,
    UrlRefused,
)
from seg_pipeline.jobs.inbox_markers import FAILED, ready_marker
from seg_pipeline.jobs.markers import marker_name
from seg_pipeline.jobs.stored_jobs import read_job, read_result
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import load, write

_FINAL = (InvalidUrl, UrlRefused, FetchRejected, FetchGivenUp, ImageTooLarge)


class FetchState(StrEnum):
    """Where a job's picture stands."""

    PENDING = "pending"
    FETCHED = "fetched"
    FAILED = "failed"


@dataclass(frozen=True)
class FetchRecord:
    """What came of fetching a picture so far.

    `address` has no query. `code` and `message` are those of the last failure.
    """

    state: FetchState = FetchState.PENDING
    attempts: int = 0
    due_at: Moment = field(default_factory=lambda: datetime.now(UTC))
    seconds: float = 0.0
    host: str = ""
    address: str = ""
    status: int | None = None
    size: int = 0
    sha256: str = ""
    code: str = ""
    message: str = ""

    def error(self) -> SegPipelineError:
        """Why there will be no picture, as the error that was raised."""
        final: tuple[type[SegPipelineError], ...] = (*ImageError.__subclasses__(), *_FINAL)
        kinds = {kind.code: kind for kind in final}
        return kinds.get(self.code, FetchError)(self.message)

    def failed(self, error: SegPipelineError) -> Self:
        """The record of a picture that cannot be fetched, for good."""
        return replace(self, state=FetchState.FAILED, code=error.code, message=str(error))

    def facts(self) -> dict[str, Any]:
        """What an operator is shown of a fetch."""
        return {
            "fetch_seconds": round(self.seconds, 3),
            "fetched_from": self.host,
            "fetch_attempts": self.attempts,
            "http_status": self.status or 0,
        }


@dataclass(frozen=True)
class PendingFetch:
    """A job whose picture is to be fetched, and its tries so far."""

    job: Job
    record: FetchRecord


class FetchQueue:
    """The fetches of a store.

    It is safe to use from several threads and processes. All methods may be called again. They
    raise StoreUnavailable when the store fails.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def add(self, uuid: str) -> None:
        """Has an accepted job's picture fetched."""
        self.store.create(keys.fetching(uuid), b"")

    def add_again(self, job: Job) -> None:
        """Has the picture fetched from the beginning, whatever came of it before."""
        self.store.delete(_record_key(job))
        self.add(job.uuid)

    def uuids(self) -> list[str]:
        """The jobs whose pictures are to be fetched; no job is read."""
        return [marker_name(info) for info in self.store.list(keys.FETCHING)]

    def take(self, uuid: str) -> PendingFetch | None:
        """What is to be fetched; None if the marker had served its time."""
        job = read_job(self.store, uuid)
        if job is None or job.image_url is None:
            self._move_to_inbox(uuid, b"")  # the claim decides what becomes of it
            return None
        record = self.record_of(job) or FetchRecord()
        if record.state is not FetchState.PENDING and self._is_complete(job, record):
            self._pass_on(job, record)
            return None
        return PendingFetch(job, record if record.state is FetchState.PENDING else FetchRecord())

    def record_of(self, job: Job) -> FetchRecord | None:
        """What came of the job's fetch so far; None if there is no record that can be read."""
        return load(self.store, FetchRecord, _record_key(job))

    def retry(self, job: Job, record: FetchRecord) -> None:
        """Remembers a try that failed, and when the next one is due."""
        if self._is_wanted(job):
            self._put_record(job, record)

    def fetched(self, job: Job, data: bytes, record: FetchRecord) -> None:
        """Stores the picture's bytes and lets the job go on."""
        if self._is_wanted(job):
            self.store.put(keys.fetched(job.uuid, _request_id(job)), data)
            self._put_record(job, record)
            self._pass_on(job, record)

    def failed(self, job: Job, record: FetchRecord) -> None:
        """Records that the picture cannot be fetched, and lets the job go on.

        Its run then fails with the reason.
        """
        if self._is_wanted(job):
            self._put_record(job, record)
            self._pass_on(job, record)

    def is_ready(self, job: Job) -> bool:
        """Whether a run would find the job's picture, or the reason why there is none."""
        if job.image_url is None or self.store.head(keys.source_info(job.uuid)):
            return True
        record = self.record_of(job)
        return (
            record is not None
            and record.state is not FetchState.PENDING
            and self._is_complete(job, record)
        )

    def refuse(self, job: Job, record: FetchRecord, error: ImageError) -> None:
        """Records that what came is no picture: the job fails, and is fetched anew if run again."""
        self._put_record(job, record.failed(error))
        self.drop_bytes(job)

    def picture(self, job: Job, record: FetchRecord) -> bytes:
        """The bytes that came.

        Raises ObjectNotFound if they are gone, or if a power cut cut them short.
        """
        key = keys.fetched(job.uuid, _request_id(job))
        data = self.store.get(key)
        if len(data) != record.size:
            raise ObjectNotFound(f"{key} has {len(data)} of {record.size} bytes.")
        return data

    def drop_bytes(self, job: Job) -> None:
        """Removes the bytes that came; to be called once they are the job's source."""
        self.store.delete(keys.fetched(job.uuid, _request_id(job)))

    def _is_complete(self, job: Job, record: FetchRecord) -> bool:
        """Whether the bytes that the record names are there."""
        if record.state is FetchState.FAILED or self.store.head(keys.source_info(job.uuid)):
            return True
        info = self.store.head(keys.fetched(job.uuid, _request_id(job)))
        return info is not None and info.size == record.size

    def _put_record(self, job: Job, record: FetchRecord) -> None:
        self.store.put(_record_key(job), write(record))

    def _is_wanted(self, job: Job) -> bool:
        """Whether the uuid still stands for this job, and the job waits for its picture."""
        if self.store.head(keys.fetching(job.uuid)) is None:
            return False
        now = read_job(self.store, job.uuid)
        return now is not None and _request_id(now) == _request_id(job)

    def _pass_on(self, job: Job, record: FetchRecord) -> None:
        """Lets the job go on to its run.

        A job that has ended does not go on: it was fetched again for an operator.
        """
        if read_result(self.store, job.uuid):
            self._remove_marker(job.uuid)
        else:
            has_failed = record.state is FetchState.FAILED
            self._move_to_inbox(job.uuid, FAILED if has_failed else ready_marker(job))

    def _move_to_inbox(self, uuid: str, marker: bytes) -> None:
        """Moves the job to the inbox, unless somebody else has moved or deleted it."""
        if self.store.head(keys.fetching(uuid)):
            self.store.create(keys.inbox(uuid), marker)
            self._remove_marker(uuid)

    def _remove_marker(self, uuid: str) -> None:
        """Removes the marker, once something else leads to the job.

        If nothing else does, the job was deleted. The marker was that of another job under the
        same uuid, and is put back.
        """
        self.store.delete(keys.fetching(uuid))
        # In the order in which a job passes them: so none is missed between two looks.
        others = (keys.inbox(uuid), keys.inflight(uuid), keys.result(uuid))
        if not any(self.store.head(key) for key in others) and self.store.head(keys.request(uuid)):
            self.add(uuid)


def _request_id(job: Job) -> str:
    """A name that tells this job's request from another one under the same uuid."""
    said = f"{job.accepted_at.isoformat()}\n{job.image_url}"
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _record_key(job: Job) -> str:
    return keys.fetch_record(job.uuid, _request_id(job))
