"""The ends of jobs: a result is written, its delivery recorded, its indexes made."""

from collections.abc import Callable
from functools import partial
from typing import Any

from seg_pipeline.domain import Job, batch_of
from seg_pipeline.errors import Fault, fault_of
from seg_pipeline.jobs.markers import microseconds
from seg_pipeline.jobs.outbox import Outbox, host_id_of
from seg_pipeline.jobs.records import OUTCOMES, Result, StoredResult
from seg_pipeline.jobs.removal import Removal
from seg_pipeline.jobs.stored_jobs import read_job, read_result
from seg_pipeline.store import Store, keys
from seg_pipeline.telemetry import metrics


class Results:
    """Ends the jobs of a store."""

    def __init__(self, store: Store, outbox: Outbox, removal: Removal) -> None:
        self._store = store
        self._outbox = outbox
        self._removal = removal

    def finish(self, result: Result, *, keep_earlier: bool = False) -> bool:
        """Publishes the result and takes the job out of flight.

        False if the job has been deleted: then nothing is kept. Finishing again replaces the
        result, and removes the markers of its former status and expiry. With `keep_earlier` an
        earlier result stays instead: of several runs of a job, the app server hears only from the
        first.
        """
        uuid = result.uuid
        reads: list[Callable[[], Any]] = [
            partial(read_job, self._store, uuid),
            partial(read_result, self._store, uuid),
        ]
        job, former = self._store.at_once(reads)
        if job is None and self._store.head(keys.request(uuid)) is None:
            self._removal.remove_leftovers(uuid)
            return False
        stored = self._write(StoredResult.of(result), keep_earlier)
        self._settle(stored, job)
        if former and (stale := former.result.expiry_key) != stored.result.expiry_key:
            self._store.delete(stale)
        count_end(stored.result, job.via if job else "unknown")
        last = read_result(self._store, uuid)
        # Another run finished the job at the same time, and its word is the last.
        if last and last.result != stored.result:
            self._settle(last, job)
        return True

    def settle(self, uuid: str) -> bool:
        """Completes a finish that died after it wrote the result; says whether there is one."""
        stored = read_result(self._store, uuid)
        if stored is not None:
            self._settle(stored, read_job(self._store, uuid))
        return stored is not None

    def _write(self, stored: StoredResult, keep_earlier: bool) -> StoredResult:
        """Writes this result, unless an earlier one is to be kept; gives the one that stands."""
        uuid = stored.result.uuid
        if keep_earlier:
            if self._store.create(keys.result(uuid), stored.data):
                return stored
            if (earlier := read_result(self._store, uuid)) is not None:
                return earlier
        self._store.put(keys.result(uuid), stored.data)
        return stored

    def _settle(self, stored: StoredResult, job: Job | None) -> None:
        """Completes the end of a job whose result is stored.

        `job` may have been read before the result was stored.
        """
        result, uuid = stored.result, stored.result.uuid
        if job and job.is_awaited:
            self._outbox.record(stored, host_id=host_id_of(job))
        done, *others = sorted(OUTCOMES, key=lambda outcome: outcome != result.status)
        calls: list[Callable[[], Any]] = [
            partial(self._store.put, keys.done(done, uuid), b""),
            *(partial(self._store.delete, keys.done(other, uuid)) for other in others),
            partial(self._store.put, result.expiry_key, b""),
            *(partial(self._store.put, key, b"") for key in _news_for_its_batch(result)),
            partial(read_job, self._store, uuid),
        ]
        *_, now = self._store.at_once(calls)
        # A callback may have been promised since `job` was read, before there was a result.
        if not (job and job.is_awaited) and now and now.is_awaited:
            self._outbox.record(stored, host_id=host_id_of(now))
        # Only once the indexes are there: until then, these markers alone lead to the job.
        fetching = [keys.fetching(uuid)] if now is None or now.image_url else []
        markers = [
            keys.inflight(uuid),
            keys.inbox(uuid),
            keys.cancel(uuid),
            *fetching,
            keys.progress(uuid),
        ]
        self._store.at_once([partial(self._store.delete, key) for key in markers])


def _news_for_its_batch(result: Result) -> list[str]:
    """The marker by which the batch of the job counts this end."""
    if batch_of(result.uuid) is None:
        return []
    return [keys.batch_news(result.uuid, microseconds(result.completed_at))]


def count_end(result: Result, via: str) -> None:
    """Counts the end of a job that was accepted by that way."""
    code = result.error.code if result.error else ""
    fault = fault_of(code) if code else ""
    if fault == Fault.OURS:
        metrics.OWN_FAILURES.labels(code).inc()
    metrics.JOBS_FINISHED.labels(str(result.status), code, fault, result.model, via).inc()
    waited = (result.completed_at - result.accepted_at).total_seconds()
    metrics.JOB_SECONDS.labels(str(result.status), via).observe(max(0.0, waited))
    for stage, seconds in result.seconds.items():
        metrics.STAGE_SECONDS.labels(stage).observe(seconds)
