"""The expiry of jobs: which ones are over, and which files nothing leads to."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from seg_pipeline.jobs.markers import each_marker
from seg_pipeline.jobs.removal import Removal
from seg_pipeline.jobs.results import Results
from seg_pipeline.jobs.stored_jobs import has_marker, read_result
from seg_pipeline.store import Store, keys


@dataclass(frozen=True)
class ExpiredJob:
    """A job whose time is over, and the expiry marker (`key`) that says so."""

    uuid: str
    expires_at: datetime
    key: str


class Expiry:
    """Finds and deletes the jobs of a store whose time is over."""

    def __init__(self, store: Store, results: Results, removal: Removal) -> None:
        self._store = store
        self._results = results
        self._removal = removal

    def expired(
        self, now: datetime, limit: int, busy: Collection[str] = ()
    ) -> Iterator[ExpiredJob]:
        """Up to `limit` jobs whose time is over, the earliest first, for `expire`.

        A job in flight, in the inbox or in `busy` is never among them. A rerun may leave a marker
        whose time is not the result's. Such a marker is put right on the way.
        """
        count = 0
        for job in self._expiry_markers(now):
            if count >= limit:
                return
            if job.uuid in busy or has_marker(self._store, job.uuid):
                continue
            if self._is_over(job):
                count += 1
                yield job

    def expire(self, job: ExpiredJob) -> None:
        """Deletes a job that `expired` gave, and its marker.

        The uuid may stand for another job by now, which stays.
        """
        stored = read_result(self._store, job.uuid)
        if stored is None:
            self._removal.remove_leftovers(job.uuid)
        elif stored.result.expiry_key == job.key:
            self._removal.delete(job.uuid)
        self._store.delete(job.key)

    def is_orphan(self, uuid: str, older_than: datetime) -> bool:
        """Whether files have no marker that leads to them, and are untouched since `older_than`.

        An acceptance or a deletion that died half way leaves such files, for `remove_leftovers`. A
        finished job without markers is no orphan: it gets its markers back.
        """
        stored = read_result(self._store, uuid)
        if stored is not None:
            if not (self._store.head(stored.result.expiry_key) or has_marker(self._store, uuid)):
                self._results.settle(uuid)
            return False
        # A job that ends between these looks has new files.
        return not has_marker(self._store, uuid) and all(
            info.last_modified < older_than for info in self._store.list(keys.asset(uuid, ""))
        )

    def _expiry_markers(self, now: datetime) -> Iterator[ExpiredJob]:
        for info in each_marker(self._store, keys.EXPIRY):
            expiry = keys.expiry_of(info.key)
            if expiry is None:
                continue
            epoch, uuid = expiry
            if epoch > now.timestamp():
                return
            yield ExpiredJob(uuid, datetime.fromtimestamp(epoch, UTC), info.key)

    def _is_over(self, job: ExpiredJob) -> bool:
        """Whether the result has the marker's time; if not, the marker is put right.

        A job without a result is over: its deletion died half way.
        """
        stored = read_result(self._store, job.uuid)
        if stored is None or stored.result.expiry_key == job.key:
            return True
        self._store.put(stored.result.expiry_key, b"")
        self._store.delete(job.key)
        return False
