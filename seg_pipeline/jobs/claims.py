"""The claims of waiting jobs: each job is in flight for one run at a time."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Self, TypeVar

from seg_pipeline.domain import Job, Lane, Moment, Priority
from seg_pipeline.errors import ObjectNotFound
from seg_pipeline.jobs.fetches import FetchQueue
from seg_pipeline.jobs.inbox_markers import (
    is_failed_marker,
    lane,
    lane_at_first,
    ready_marker,
    turn,
)
from seg_pipeline.jobs.markers import marker_name
from seg_pipeline.jobs.parked_notes import ParkedNote, park
from seg_pipeline.jobs.results import Results
from seg_pipeline.jobs.stored_jobs import read_job
from seg_pipeline.store import ObjectInfo, Store, keys
from seg_pipeline.store.serialization import UnreadableRecord, load, read, write

T = TypeVar("T")
R = TypeVar("R")

_GIVEN_BACK = "given back"
"""The run key of a claim whose job waits again. No run has it."""


@dataclass(frozen=True)
class Claim:
    """A job that a run was requested for, in a run of `batch` jobs.

    `attempt` counts from 1 the runs that the job is to blame for, this one included. `losses`
    counts the earlier runs that were lost through nobody's fault. `model`, `came_by` and
    `priority` are the job's, for the run's tags; a claim of an older version has none of them.
    """

    uuid: str
    attempt: int
    run_key: str
    claimed_at: Moment
    batch: int = 1
    losses: int = 0
    model: str = ""
    came_by: str = ""
    priority: Priority = Priority.NORMAL

    @property
    def lane(self) -> Lane:
        """The lane of a run for the job alone."""
        return lane_at_first(self.came_by, self.priority)

    @property
    def is_given_back(self) -> bool:
        """Whether its run gave way before it began the job, which waits for another."""
        return self.run_key == _GIVEN_BACK

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


def new_run_key(uuid: str, number: int, now: datetime) -> str:
    """The key of the job's run of that number, counted from 1.

    Dagster makes no second run of a key. The key has the time in it because a uuid may be used
    again once its job is deleted or expired. The old job's runs are kept.
    """
    return f"{uuid}:{number}@{now.timestamp():.0f}"


@dataclass(frozen=True)
class Waiting:
    """Uuids of jobs that nobody has claimed, in the order of their turns.

    The pictures of the `ready` jobs are in the store. Those of the `failed` could not be fetched.
    """

    ready: list[str]
    failed: list[str]
    lanes: Mapping[str, Lane]

    def ready_in(self, lane: Lane) -> list[str]:
        """Those of a lane that are ready."""
        return [uuid for uuid in self.ready if self.lanes[uuid] is lane]


class Claims:
    """The waiting jobs of a store, and those in flight."""

    def __init__(self, store: Store, fetches: FetchQueue, results: Results) -> None:
        self._store = store
        self._fetches = fetches
        self._results = results

    def waiting(self, limit: int) -> Waiting:
        """Up to so many jobs of each kind that nobody has claimed; no job is read."""
        markers, now = self._oldest_markers(), datetime.now(UTC)
        ready = [info for info in markers if not is_failed_marker(info.size)][:limit]
        failed = [marker_name(info) for info in markers if is_failed_marker(info.size)][:limit]
        lanes = {marker_name(info): lane(info, now) for info in ready}
        return Waiting([*lanes], failed, lanes)

    def claim(self, uuids: Sequence[str], run_key: str, attempt: int = 1) -> list[Claim]:
        """Moves waiting jobs in flight for one run; gives those that this very call moved.

        Markers of jobs in flight and of finished jobs are dropped. A marker without a readable
        `request.json` is parked with the reason. A job without its picture goes to be fetched: an
        older version fetched it in the run.
        """
        now = datetime.now(UTC)
        claims = [Claim(uuid, attempt, run_key, now, len(uuids)) for uuid in uuids]
        return [claim for claim in _at_once(self._claim, claims) if claim]

    def inflight(self) -> list[Claim]:
        """Every claimed job that is not finished, by uuid."""
        claims = _at_once(self._read_claim, self._store.list(keys.INFLIGHT))
        return [claim for claim in claims if claim]

    def claim_of(self, uuid: str) -> Claim | None:
        """The job's claim while it is in flight."""
        info = self._store.head(keys.inflight(uuid))
        return self._read_claim(info) if info else None

    def is_claimed_for(self, uuid: str, run_key: str) -> bool:
        """Whether the job waits for this run; not if it is finished, deleted or another run's."""
        claim = load(self._store, Claim, keys.inflight(uuid))
        return claim is not None and claim.run_key == run_key

    def give_back(self, uuids: Sequence[str], run_key: str | None) -> None:
        """Returns jobs to the inbox that a run has claimed and not begun.

        The claim stays until the next one replaces it. So a job that dies here is not lost: see
        `complete`.
        """
        _at_once(lambda uuid: self._give_back(uuid, run_key), uuids)

    def complete(self, claim: Claim) -> None:
        """Makes sure that a job waits whose claim was given back: the giver may have died."""
        if not self._results.settle(claim.uuid):
            self._wait_again(claim.uuid)

    def fetch_first(self, job: Job) -> None:
        """Sends a job that was claimed without its picture to be fetched.

        It is claimed again once the picture has come.
        """
        self._fetches.add(job.uuid)
        self._store.delete(keys.inflight(job.uuid))

    def reclaim(self, again: Claim) -> bool:
        """Replaces the job's claim by this one; False if the job is finished or deleted by now."""
        if self._results.settle(again.uuid):
            return False
        if read_job(self._store, again.uuid) is None:
            self._store.delete(keys.inflight(again.uuid))
            return False
        self._store.put(keys.inflight(again.uuid), write(again))
        return True

    def _oldest_markers(self) -> list[ObjectInfo]:
        return sorted(self._store.list(keys.INBOX), key=turn)

    def _claim(self, claim: Claim) -> Claim | None:
        """The claim with what is known of its job; None if the job is not this call's."""
        uuid = claim.uuid
        job = read_job(self._store, uuid)
        if job is None:
            self._park(uuid, claim.claimed_at)
            return None
        whole = replace(claim, model=job.model, came_by=job.via, priority=job.priority)
        mine = not self._results.settle(uuid) and self._is_fetched(job) and self._create(whole)
        self._store.delete(keys.inbox(uuid))
        return whole if mine else None

    def _is_fetched(self, job: Job) -> bool:
        """Whether the job's picture is there; if not, the job goes to be fetched."""
        is_ready = self._fetches.is_ready(job)
        if not is_ready:
            self._fetches.add(job.uuid)
        return is_ready

    def _create(self, claim: Claim) -> bool:
        key = keys.inflight(claim.uuid)
        if self._store.create(key, write(claim)):
            return True
        earlier = load(self._store, Claim, key)
        if earlier is None or not earlier.is_given_back:
            return False
        self._store.put(key, write(claim))
        return True

    def _give_back(self, uuid: str, run_key: str | None) -> None:
        claim = load(self._store, Claim, keys.inflight(uuid))
        if claim is not None and claim.run_key == run_key:
            self._store.put(keys.inflight(uuid), write(replace(claim, run_key=_GIVEN_BACK)))
            self._wait_again(uuid)

    def _wait_again(self, uuid: str) -> None:
        """Makes the job's marker in the inbox. A job that was deleted meanwhile gets none."""
        if job := read_job(self._store, uuid):
            self._store.create(keys.inbox(uuid), ready_marker(job))
        if read_job(self._store, uuid) is None:
            self._store.delete(keys.inbox(uuid))
            self._store.delete(keys.inflight(uuid))

    def _park(self, uuid: str, now: datetime) -> None:
        """Moves a marker that stands for no job out of the way, unless somebody else has."""
        if self._store.head(keys.inbox(uuid)) is None:
            return
        reason = "the inbox has a marker, but there is no readable request.json"
        park(self._store, uuid, ParkedNote(uuid=uuid, reason=reason, parked_at=now))
        self._store.delete(keys.inbox(uuid))
        if job := read_job(self._store, uuid):  # accepted meanwhile by who found that marker
            self._store.create(keys.inbox(uuid), ready_marker(job))

    def _read_claim(self, info: ObjectInfo) -> Claim | None:
        """The claim in an object.

        A power cut may leave a claim empty. It counts as a first attempt by no run, which recovery
        requests again.
        """
        try:
            return read(Claim, self._store.get(info.key))
        except ObjectNotFound:
            return None
        except UnreadableRecord:
            return Claim(marker_name(info), 1, "", info.last_modified)


def _at_once(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """The function of each item; on S3, a batch would take seconds one by one."""
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(16, len(items)), thread_name_prefix="claims") as pool:
        return [*pool.map(function, items)]
