"""Failed jobs that are to run again, as if they had just been accepted.

    request  retries/{uuid} → no done/failed/{uuid}, no expiry/… → no result.json
             → fetching/{uuid} or inbox/{uuid}
    later    no retries/{uuid}, once something else leads to the job

The marker holds the fingerprint of the failed result. It stays for a while: the process may die
half way, and another one that is ending the job at that moment may remove the new inbox marker.
`complete` then begins once more. A newer result is left alone. The app server is told again when
the job ends, as the result is then another.
"""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

from seg_pipeline.domain import Job, JobStatus
from seg_pipeline.errors import NotFailed, ObjectNotFound
from seg_pipeline.jobs.evidence import remove_evidence
from seg_pipeline.jobs.fetches import FetchQueue, FetchState
from seg_pipeline.jobs.inbox_markers import ready_marker
from seg_pipeline.jobs.markers import marker_name
from seg_pipeline.jobs.records import StoredResult
from seg_pipeline.jobs.stored_jobs import get_job, is_on_its_way, read_job, read_result
from seg_pipeline.store import Store, keys

_STARTED_WITHIN = timedelta(seconds=30)
"""How soon after its request a job must be waiting or under way."""


class Retries:
    """The failed jobs of a store that are to run again."""

    def __init__(self, store: Store, fetches: FetchQueue) -> None:
        self._store = store
        self._fetches = fetches

    def request(self, uuid: str) -> None:
        """Has a failed job run again, with attempts counted anew.

        Raises JobNotFound. Raises NotFailed if the job has not ended, or is completed.
        """
        job, stored = get_job(self._store, uuid), read_result(self._store, uuid)
        if stored is None:
            raise NotFailed(uuid, "has not ended")
        if stored.result.status is not JobStatus.FAILED:
            raise NotFailed(uuid, f"is {stored.result.status}")
        self._store.put(keys.retry(uuid), stored.sha256.encode())
        self._start(job, stored)

    def complete(self, now: datetime | None = None) -> None:
        """Begins once more the retries that came to nothing, and drops the other markers."""
        before = (now or datetime.now(UTC)) - _STARTED_WITHIN
        for info in self._store.list(keys.RETRIES):
            if info.last_modified < before:
                self._complete(marker_name(info))

    def _complete(self, uuid: str) -> None:
        job, stored = read_job(self._store, uuid), read_result(self._store, uuid)
        has_begun = is_on_its_way(self._store, uuid) if stored is None else not self._is_old(stored)
        if job is None or has_begun:
            self._store.delete(keys.retry(uuid))
        else:
            self._start(job, stored)

    def _is_old(self, stored: StoredResult) -> bool:
        """Whether it is the result with which the job was to run again."""
        with suppress(ObjectNotFound):
            fingerprint = self._store.get(keys.retry(stored.result.uuid)).decode()
            return fingerprint == stored.sha256
        return False

    def _start(self, job: Job, stored: StoredResult | None) -> None:
        self._remove_end(job.uuid, stored)
        self._send(job)

    def _remove_end(self, uuid: str, stored: StoredResult | None) -> None:
        """Removes the failed result and what was made of it; the result goes last."""
        self._store.delete(keys.done(JobStatus.FAILED, uuid))
        if stored:
            self._store.delete(stored.result.expiry_key)
        self._store.delete(keys.cancel(uuid))
        remove_evidence(self._store, uuid)
        self._store.delete(keys.result(uuid))

    def _send(self, job: Job) -> None:
        """Lets the job wait for its run; for its picture, if that could not be fetched."""
        record = self._fetches.record_of(job) if job.image_url else None
        if record and record.state is FetchState.FAILED:
            self._fetches.add_again(job)
        else:
            self._store.create(keys.inbox(job.uuid), ready_marker(job))
