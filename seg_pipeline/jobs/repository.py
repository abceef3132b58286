"""The way of a job through the store: accepted, claimed, finished, expired. Markers say where each
job stands.

    accept   request.json → source.<ext> → inbox/{uuid}       an upload
             request.json → fetching/{uuid} … inbox/{uuid}    an address, see `fetches`
    claim    inflight/{uuid} → no inbox/{uuid}
    finish   result.json → its delivery, if the app server waits for it (see `outbox`)
             → done/{status}/{uuid} → expiry/{time}-{uuid} → no inflight/{uuid}
    delete   no source.<ext> → no fetching/{uuid}, no inbox/{uuid}, no inflight/{uuid}
             → no result.json, no request.json → no other files → no indexes

A process may die between any two of these writes, and several may do the same at once. So the order
is such that doing it again leads to the same end: `request.json` and `result.json` are the truth,
the markers only help to find a job without asking every one. A uuid may be accepted again while its
former job is being deleted: once that has no request any more, nothing that an acceptance writes is
touched.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from io import SEEK_END
from typing import Any, BinaryIO, Self, TypeVar

from seg_pipeline.domain import Job, JobStatus, Moment
from seg_pipeline.errors import (
    Fault,
    JobConflict,
    JobNotFound,
    ObjectNotFound,
    StoreError,
    StoreUnavailable,
    fault_of,
)
from seg_pipeline.jobs.fetches import FetchQueue, is_failed_marker
from seg_pipeline.jobs.heartbeats import WorkerHeartbeat
from seg_pipeline.jobs.listing import JobListing
from seg_pipeline.jobs.markers import each_marker, marker_name
from seg_pipeline.jobs.outbox import Outbox
from seg_pipeline.jobs.parked_notes import ParkedNote, park
from seg_pipeline.jobs.records import OUTCOMES, Result, StoredResult
from seg_pipeline.jobs.stored_jobs import read_job, read_result
from seg_pipeline.store import ObjectInfo, Store, keys
from seg_pipeline.store.serialization import UnreadableRecord, load, read, write
from seg_pipeline.telemetry import metrics

T = TypeVar("T")
R = TypeVar("R")

_TRIES = 5
_PAGE = 1000
_ACCEPTED_WITHIN = timedelta(seconds=60)
"""An acceptance that has come no further than its request by then has died."""

_SOURCES = 10
"""More than a job ever has: one, what it is, and what came of fetching it."""


@dataclass(frozen=True)
class Accepted:
    """The job that a uuid stands for, and whether this very call made it."""

    job: Job
    created: bool


@dataclass(frozen=True)
class Claim:
    """A job that a run was asked for, in a run of `batch` jobs.

    `attempt` (from 1) counts the runs that the job is to blame for, this one included; `losses`
    those before it that were lost through nobody's fault.
    """

    uuid: str
    attempt: int
    run_key: str
    claimed_at: Moment
    batch: int = 1
    losses: int = 0

    def next_attempt(self, now: datetime) -> Self:
        """The claim of a run of its own, after one that the job was to blame for."""
        return self._next(self.attempt + 1, self.losses, now)

    def after_loss(self, now: datetime) -> Self:
        """The claim of a run of its own, after one that was lost through nobody's fault."""
        return self._next(self.attempt, self.losses + 1, now)

    def _next(self, attempt: int, losses: int, now: datetime) -> Self:
        run_key = new_run_key(self.uuid, attempt + losses, now)
        return replace(
            self, attempt=attempt, losses=losses, run_key=run_key, claimed_at=now, batch=1
        )


@dataclass(frozen=True)
class ExpiredJob:
    """A job whose time is over, and the expiry marker (`key`) that says so."""

    uuid: str
    expires_at: datetime
    key: str


def new_run_key(uuid: str, number: int, now: datetime) -> str:
    """What the job's run of that number (from 1) is known by to Dagster, which makes no second run
    of a key. The time is in it because a uuid may be used again once its job is deleted or expired,
    while the old job's runs are kept."""
    return f"{uuid}:{number}@{now.timestamp():.0f}"


def fingerprint(data: bytes) -> str:
    """SHA-256 of an upload, 64 hex digits: the `source_sha256` of its job."""
    return hashlib.sha256(data).hexdigest()


class Inbox:
    """Every change of a job's state goes through here. Safe to use from several threads and
    processes.

    All methods raise StoreUnavailable when the store does not do its part; calling again is always
    right.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.outbox = Outbox(store)
        self.fetches = FetchQueue(store)
        self.listing = JobListing(store)

    def accept(self, job: Job, data: bytes | BinaryIO | None = None) -> Accepted:
        """Makes the job durable and visible to the sensor; once it returns, the job cannot get
        lost.

        The same request again, also at the same time elsewhere, gives the first job and
        `created=False`, and completes an acceptance that died half way; if the app server waits for
        the second only, it is told of the first. Another request under the same uuid raises
        JobConflict, and nothing is written; but where an acceptance died half way, a minute later
        it takes its place. If the store fails, what this call began is taken back. An upload needs
        its bytes in `data` (or in an open file, see `Store.put_file`), whose fingerprint is the
        job's `source_sha256`.
        """
        if (data is None) != (job.source_sha256 is None):
            raise ValueError(
                f"job {job.uuid}: an upload needs its bytes, a job with image_url has none"
            )
        for turn in range(_TRIES):
            accepted = self._record(job)
            if accepted is None:
                continue
            if job.callback and not accepted.created:
                accepted = Accepted(self._promise_callback(accepted.job), created=False)
            is_new = turn > 0 or accepted.created or not self._is_known(job.uuid)
            with self._withdrawn_if_it_fails(accepted, data):
                self._store_source(accepted.job, data, is_new)
                if is_new:
                    self.store.create(_first_marker(accepted.job), b"")
            # A deletion of the uuid's former job may have taken its request, which we took for
            # ours: then once more.
            if self.store.head(keys.request(job.uuid)):
                metrics.JOBS_ACCEPTED.labels(job.via).inc(accepted.created)
                return accepted
        raise StoreUnavailable(f"job {job.uuid} is being deleted again and again; try later.")

    def waiting(self, limit: int) -> list[str]:
        """Uuids of jobs that nobody has claimed, the longest waiting first; no job is read for
        it."""
        return [marker_name(info) for info in self._oldest_markers()[:limit]]

    def waiting_by_picture(self, limit: int) -> tuple[list[str], list[str]]:
        """The same in two: jobs whose picture is there, and those whose picture could not be
        had."""
        markers = self._oldest_markers()
        ready = [marker_name(info) for info in markers if not is_failed_marker(info.size)]
        failed = [marker_name(info) for info in markers if is_failed_marker(info.size)]
        return ready[:limit], failed[:limit]

    def job(self, uuid: str) -> Job:
        """The job as it was asked for; raises JobNotFound."""
        job = read_job(self.store, uuid)
        if job is None:
            raise JobNotFound(uuid)
        return job

    def claim(self, uuids: Sequence[str], run_key: str, attempt: int = 1) -> list[Claim]:
        """Moves waiting jobs in flight for one run; those are returned that this call, and no
        other, moved.

        Markers of jobs that are in flight or finished are dropped. One without a readable
        `request.json` is parked with the reason. A job whose picture is not there (an older version
        fetched it in the run) goes to be fetched.
        """
        now = datetime.now(UTC)
        claims = [Claim(uuid, attempt, run_key, now, len(uuids)) for uuid in uuids]
        return [
            claim for claim, mine in zip(claims, _at_once(self._claim, claims), strict=True) if mine
        ]

    def inflight(self) -> list[Claim]:
        """Every claimed job that is not finished, by uuid."""
        claims = _at_once(self._read_claim, self.store.list(keys.INFLIGHT))
        return [claim for claim in claims if claim]

    def claim_of(self, uuid: str) -> Claim | None:
        """The job's claim while it is in flight."""
        info = self.store.head(keys.inflight(uuid))
        return self._read_claim(info) if info else None

    def is_claimed_for(self, uuid: str, run_key: str) -> bool:
        """Whether this is the run that the job waits for; not if it is finished, deleted or another
        run's by now."""
        claim = load(self.store, Claim, keys.inflight(uuid))
        return claim is not None and claim.run_key == run_key

    def fetch_first(self, job: Job) -> None:
        """Has the picture of a job fetched that was claimed without it; it is claimed again when
        that has come."""
        self.fetches.add(job.uuid)
        self.store.delete(keys.inflight(job.uuid))

    def reclaim(self, again: Claim) -> bool:
        """Replaces the job's claim by this one; False if the job is finished or deleted by now."""
        if self.settle(again.uuid):
            return False
        if read_job(self.store, again.uuid) is None:
            self.store.delete(keys.inflight(again.uuid))
            return False
        self.store.put(keys.inflight(again.uuid), write(again))
        return True

    def finish(self, result: Result, *, keep_earlier: bool = False) -> bool:
        """Publishes the result and takes the job out of flight; False, and nothing is kept, if it
        has been deleted.

        Finishing again replaces the result; markers of its former status and expiry are removed.
        With `keep_earlier` an earlier result stays instead, so that of several runs of a job the
        app server hears from the first alone.
        """
        uuid = result.uuid
        reads: list[Callable[[], Any]] = [
            partial(read_job, self.store, uuid),
            partial(read_result, self.store, uuid),
        ]
        job, former = self.store.at_once(reads)
        if job is None and self.store.head(keys.request(uuid)) is None:
            self.remove_leftovers(uuid)
            return False
        stored = self._write_result(StoredResult.of(result), keep_earlier)
        self._settle(stored, job)
        if former and (stale := former.result.expiry_key) != stored.result.expiry_key:
            self.store.delete(stale)
        count_end(stored.result, job.via if job else "unknown")
        last = read_result(self.store, uuid)
        # Another run finished the job at the same time, and its word is the last.
        if last and last.result != stored.result:
            self._settle(last, job)
        return True

    def settle(self, uuid: str) -> bool:
        """Completes a finish that died half way, if it came as far as the result; says whether
        there is a result."""
        stored = read_result(self.store, uuid)
        if stored is not None:
            self._settle(stored, read_job(self.store, uuid))
        return stored is not None

    def status(self, uuid: str, live_beats: Iterable[WorkerHeartbeat] = ()) -> JobStatus:
        """Where the job stands; `live_beats` are those of `live_workers`. Raises JobNotFound."""
        result = self.result(uuid)
        if result is not None:
            return result.status
        if self.store.head(keys.request(uuid)) is None:
            raise JobNotFound(uuid)
        if any(uuid in heartbeat.uuids for heartbeat in live_beats):
            return JobStatus.PROCESSING
        if self._has_marker(uuid):
            return JobStatus.QUEUED
        result = self.result(uuid)  # it may have been finished since we first looked
        if result is None:
            raise JobNotFound(uuid)
        return result.status

    def result(self, uuid: str) -> Result | None:
        """How the job ended; None if it has not."""
        stored = read_result(self.store, uuid)
        return stored.result if stored else None

    def delete(self, uuid: str) -> bool:
        """Removes the job with all its files, wherever it stands; says whether there was one.

        A job that is accepted under the uuid meanwhile stays.
        """
        markers = (keys.fetching(uuid), keys.inbox(uuid), keys.cancel(uuid))
        return self._delete(uuid, self._sources(uuid), *markers)

    def expire(self, job: ExpiredJob) -> None:
        """Deletes a job that `expired` gave, and its marker; not what the uuid stands for if that
        is another by now."""
        result = self.result(job.uuid)
        if result is None:
            self.remove_leftovers(job.uuid)
        elif result.expiry_key == job.key:
            self.delete(job.uuid)
        self.store.delete(job.key)

    def ask_to_cancel(self, uuid: str) -> None:
        """Has whoever works on the job stop, and end it as cancelled. Raises JobNotFound."""
        self.store.put(keys.cancel(uuid), self.job(uuid).accepted_at.isoformat().encode())

    def asked_to_cancel(self, uuids: Collection[str]) -> frozenset[str]:
        """Those of the jobs that are to be cancelled; one request whatever their number, if none
        is."""
        asked = {marker_name(info) for info in self.store.list(keys.CANCELS)} & set(uuids)
        return frozenset(uuid for uuid in asked if self._is_to_be_cancelled(uuid))

    def _is_to_be_cancelled(self, uuid: str) -> bool:
        """Whether the marker is about this job, and not about one that had its uuid before."""
        job = read_job(self.store, uuid)
        with suppress(ObjectNotFound):
            return (
                job is not None
                and self.store.get(keys.cancel(uuid)).decode() == job.accepted_at.isoformat()
            )
        return False

    def remove_leftovers(self, uuid: str) -> None:
        """Removes what a deletion or an acceptance that died half way has left, or a late run;
        never a living job."""
        sources = self._sources(
            uuid
        )  # before the request, so that they are not those of a job that comes now
        if read_job(self.store, uuid) is None or not self._is_known(uuid):
            self._delete(uuid, sources)

    def expired(
        self, now: datetime, limit: int, busy: Collection[str] = ()
    ) -> Iterator[ExpiredJob]:
        """Up to `limit` jobs whose time is over, the earliest first; never one in flight, in the
        inbox or in `busy`.

        A marker that a rerun left behind (the result says another time) is put right on the way. To
        be given to `expire`.
        """
        count = 0
        for job in self._expiry_markers(now):
            if count >= limit:
                return
            if job.uuid not in busy and not self._has_marker(job.uuid) and self._is_over(job):
                count += 1
                yield job

    def is_orphan(self, uuid: str, older_than: datetime) -> bool:
        """Whether no marker leads to what is there, untouched since `older_than`: an acceptance, or
        a deletion, died half way. To be given to `remove_leftovers`.

        A finished job without markers gets them back instead.
        """
        result = self.result(uuid)
        if result is not None:
            if not (self.store.head(result.expiry_key) or self._has_marker(uuid)):
                self.settle(uuid)
            return False
        # A job that ends between these looks has new files.
        return not self._has_marker(uuid) and all(
            info.last_modified < older_than for info in self.store.list(keys.asset(uuid, ""))
        )

    def _record(self, job: Job) -> Accepted | None:
        """Writes the request or finds the one that is there; None if that vanished meanwhile."""
        if self.store.create(keys.request(job.uuid), write(job)):
            return Accepted(job, created=True)
        first = read_job(self.store, job.uuid)
        if first is None and self.store.head(keys.request(job.uuid)):
            self.store.put(keys.request(job.uuid), write(job))  # it was there, and no job
            return Accepted(job, created=True)
        if first is not None and not first.asks_the_same_as(job):
            if not self._is_abandoned(job.uuid):
                raise JobConflict(job.uuid)
            self.remove_leftovers(job.uuid)
            return None
        return Accepted(first, created=False) if first else None

    @contextmanager
    def _withdrawn_if_it_fails(
        self, accepted: Accepted, data: bytes | BinaryIO | None
    ) -> Iterator[None]:
        """Takes an acceptance back that this call began and the store did not let it end, as far as
        the store does."""
        try:
            yield
        except StoreError:
            if accepted.created:
                with suppress(StoreError):
                    self._withdraw(accepted.job, data)
            raise

    def _withdraw(self, job: Job, data: bytes | BinaryIO | None) -> None:
        """Removes request and source of a job without a marker. Whoever accepted the same job
        meanwhile has made one: then it is theirs, and both are put back."""
        if self._is_known(job.uuid):
            return
        for key in self._sources(job.uuid):
            if key != keys.request(job.uuid):
                self.store.delete(key)
        self._delete_request(job.uuid)
        if self.store.head(keys.inbox(job.uuid)):
            self._store_source(job, data, is_new=True)

    def _is_abandoned(self, uuid: str) -> bool:
        """Whether a request is there that nothing leads to, and so old that nobody is about to
        complete it."""
        request = self.store.head(keys.request(uuid))
        is_old = (
            request is not None and request.last_modified < datetime.now(UTC) - _ACCEPTED_WITHIN
        )
        return is_old and not self._is_known(uuid)

    def _store_source(self, job: Job, data: bytes | BinaryIO | None, is_new: bool) -> None:
        """Writes an upload's bytes; of a job that is known they are there, if nobody is about to
        delete it."""
        if data is None:
            return
        key = keys.source(job.uuid, job.source_extension or "bin")
        info = None if is_new else self.store.head(key)
        if info is None or info.size != _size(data):
            self._put_source(key, data)

    def _put_source(self, key: str, data: bytes | BinaryIO) -> None:
        if isinstance(data, bytes):
            self.store.put(key, data)
        else:
            self.store.put_file(key, data)

    def _delete(self, uuid: str, sources: Iterable[str], *markers: str) -> bool:
        """Removes what there is, and the markers given with those that are always removed.

        The sources go while the job is known, since whoever knows it writes none; then what makes
        it known; result and request together, so that nothing half-deleted is served and hardly
        anybody takes the request for a living job's; the indexes last, so that a deletion that died
        is found and completed.
        """
        reads: list[Callable[[], Any]] = [
            partial(self.result, uuid),
            partial(self.outbox.markers_of, uuid),
        ]
        result, outbox = self.store.at_once(reads)
        for key in (*sources, *markers, keys.inflight(uuid), *outbox, keys.result(uuid)):
            self.store.delete(key)
        existed = self._delete_request(uuid)
        self.store.delete_folder(keys.asset(uuid, ""), keep=keys.comes_with_acceptance)
        for outcome in OUTCOMES:
            self.store.delete(keys.done(outcome, uuid))
        if result:
            self.store.delete(result.expiry_key)
        return existed

    def _delete_request(self, uuid: str) -> bool:
        """Removes the request, if there is one. Whoever accepted the same job meanwhile has made a
        marker and may have looked for the request before: then it is put back, and the job is
        theirs."""
        try:
            request = self.store.get(keys.request(uuid))
        except ObjectNotFound:
            return False
        self.store.delete(keys.request(uuid))
        if any(self.store.head(key) for key in (keys.fetching(uuid), keys.inbox(uuid))):
            self.store.create(keys.request(uuid), request)
        return True

    def _sources(self, uuid: str) -> list[str]:
        """The keys of the picture as received and of what is known of it."""
        infos = self.store.list(
            keys.asset(uuid, ""), after=keys.asset(uuid, "source"), limit=_SOURCES
        )
        return [info.key for info in infos if keys.comes_with_acceptance(info.key)]

    def _promise_callback(self, job: Job) -> Job:
        """A job that is there already and comes by the queue: from now on, the app server waits for
        it too.

        Here the request is written before the result is read; who finishes a job does it the other
        way round, so one of the two sees the other. Also if the request says so already: whoever
        wrote that may have died before the result.
        """
        promised = replace(job, callback=True)
        if not job.callback:
            self.store.put(keys.request(job.uuid), write(promised))
        stored = read_result(self.store, job.uuid)
        if stored is not None:
            self.outbox.record(stored)
        return promised

    def _is_known(self, uuid: str) -> bool:
        return self._has_marker(uuid) or self.result(uuid) is not None

    def _has_marker(self, uuid: str) -> bool:
        # In this order: each step makes the next marker before it removes its own. A step back
        # leads to the first.
        markers = (keys.fetching(uuid), keys.inbox(uuid), keys.inflight(uuid), keys.fetching(uuid))
        return any(self.store.head(key) for key in markers)

    def _oldest_markers(self) -> list[ObjectInfo]:
        return sorted(self.store.list(keys.INBOX), key=lambda info: (info.last_modified, info.key))

    def _claim(self, claim: Claim) -> bool:
        uuid = claim.uuid
        job = read_job(self.store, uuid)
        if job is None:
            self._park(uuid, claim.claimed_at)
            return False
        mine = not self.settle(uuid) and self._is_fetched(job) and self._claim_fetched(claim)
        self.store.delete(keys.inbox(uuid))
        return mine

    def _is_fetched(self, job: Job) -> bool:
        """Whether the job can be worked on; else it goes to be fetched."""
        is_ready = self.fetches.is_ready(job)
        if not is_ready:
            self.fetches.add(job.uuid)
        return is_ready

    def _claim_fetched(self, claim: Claim) -> bool:
        return self.store.create(keys.inflight(claim.uuid), write(claim))

    def _park(self, uuid: str, now: datetime) -> None:
        """Takes a marker that stands for no job out of the way, unless somebody else already
        has."""
        if self.store.head(keys.inbox(uuid)) is None:
            return
        reason = "the inbox has a marker, but there is no readable request.json"
        park(self.store, uuid, ParkedNote(uuid=uuid, reason=reason, parked_at=now))
        self.store.delete(keys.inbox(uuid))
        if read_job(self.store, uuid):  # accepted meanwhile, by somebody who found that marker
            self.store.create(keys.inbox(uuid), b"")

    def _read_claim(self, info: ObjectInfo) -> Claim | None:
        """A claim; one that a power cut left empty counts as a first attempt by no run, which the
        sweeper repeats."""
        try:
            return read(Claim, self.store.get(info.key))
        except ObjectNotFound:
            return None
        except UnreadableRecord:
            return Claim(marker_name(info), 1, "", info.last_modified)

    def _write_result(self, stored: StoredResult, keep_earlier: bool) -> StoredResult:
        """The result that stands: this one, or the earlier one if there is one to keep."""
        uuid = stored.result.uuid
        if keep_earlier:
            if self.store.create(keys.result(uuid), stored.data):
                return stored
            if (earlier := read_result(self.store, uuid)) is not None:
                return earlier
        self.store.put(keys.result(uuid), stored.data)
        return stored

    def _settle(self, stored: StoredResult, job: Job | None) -> None:
        """Completes the end of a job whose result is stored; `job` may have been read before it
        was."""
        result, uuid = stored.result, stored.result.uuid
        is_awaited = bool(job and job.callback)
        if is_awaited:
            self.outbox.record(stored)
        done, *others = sorted(OUTCOMES, key=lambda outcome: outcome != result.status)
        calls: list[Callable[[], Any]] = [
            partial(self.store.put, keys.done(done, uuid), b""),
            *(partial(self.store.delete, keys.done(other, uuid)) for other in others),
            partial(self.store.put, result.expiry_key, b""),
            partial(read_job, self.store, uuid),
        ]
        *_, now = self.store.at_once(calls)
        # Whoever began to wait for the job since it was read may have looked for a result before
        # there was one.
        if not is_awaited and now and now.callback:
            self.outbox.record(stored)
        # Once the indexes are there, and not before: until then these are what leads to the job.
        fetching = [keys.fetching(uuid)] if now is None or now.image_url else []
        markers = [keys.inflight(uuid), keys.inbox(uuid), keys.cancel(uuid), *fetching]
        self.store.at_once([partial(self.store.delete, key) for key in markers])

    def _expiry_markers(self, now: datetime) -> Iterator[ExpiredJob]:
        for info in each_marker(self.store, keys.EXPIRY):
            epoch, _, uuid = marker_name(info).partition("-")
            if not epoch.isdigit() or not uuid:
                continue
            if int(epoch) > now.timestamp():
                return
            yield ExpiredJob(uuid, datetime.fromtimestamp(int(epoch), UTC), info.key)

    def _is_over(self, job: ExpiredJob) -> bool:
        """Whether the result agrees; without a result, a deletion died half way, and the job is
        over."""
        result = self.result(job.uuid)
        if result is None or result.expiry_key == job.key:
            return True
        self.store.put(result.expiry_key, b"")
        self.store.delete(job.key)
        return False


def _size(data: bytes | BinaryIO) -> int:
    return len(data) if isinstance(data, bytes) else data.seek(0, SEEK_END)


def _first_marker(job: Job) -> str:
    """Where an accepted job waits first: for its picture, or for its run."""
    return keys.fetching(job.uuid) if job.image_url else keys.inbox(job.uuid)


def _at_once(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """The function of each item; on S3, a batch would take seconds one by one."""
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(16, len(items)), thread_name_prefix="inbox") as pool:
        return [*pool.map(function, items)]


def count_end(result: Result, via: str) -> None:
    """Counts the end of a job that came by that way."""
    code = result.error.code if result.error else ""
    fault = fault_of(code) if code else ""
    if fault == Fault.OURS:
        metrics.OWN_FAILURES.labels(code).inc()
    metrics.JOBS_FINISHED.labels(str(result.status), code, fault, result.model, via).inc()
    waited = (result.completed_at - result.accepted_at).total_seconds()
    metrics.JOB_SECONDS.labels(str(result.status), via).observe(max(0.0, waited))
    for stage, seconds in result.seconds.items():
        metrics.STAGE_SECONDS.labels(stage).observe(seconds)
