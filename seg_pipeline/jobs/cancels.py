"""Requests to cancel jobs, each a marker that whoever works on the job finds.

A job that no worker has needs no marker: its end is written at once.
"""

from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime

from seg_pipeline.errors import JobCancelled, ObjectNotFound
from seg_pipeline.jobs.markers import marker_name
from seg_pipeline.jobs.records import Timing, failed_result
from seg_pipeline.jobs.results import Results
from seg_pipeline.jobs.stored_jobs import get_job, read_job, read_result
from seg_pipeline.store import Store, keys


class Cancels:
    """The jobs of a store that are to be cancelled."""

    def __init__(self, store: Store, results: Results) -> None:
        self._store = store
        self._results = results

    def request(self, uuid: str) -> None:
        """Has whoever works on the job stop and end it as cancelled. Raises JobNotFound.

        A job that has ended meanwhile stays as it is.
        """
        accepted_at = get_job(self._store, uuid).accepted_at
        self._store.put(keys.cancel(uuid), accepted_at.isoformat().encode())
        if read_result(self._store, uuid):
            self._store.delete(keys.cancel(uuid))

    def end(self, uuid: str) -> None:
        """Ends a job that no worker has as cancelled. Raises JobNotFound.

        A run that begins it at this moment finds its end, and leaves it. An end that was there
        before stays too.
        """
        now = datetime.now(UTC)
        result = failed_result(get_job(self._store, uuid), JobCancelled(uuid), Timing(now, now))
        self._results.finish(result, keep_earlier=True)

    def requested(self, uuids: Collection[str]) -> frozenset[str]:
        """Those of the jobs that are to be cancelled.

        If there are none, it takes one call of the store, whatever the number of jobs.
        """
        marked = {marker_name(info) for info in self._store.list(keys.CANCELS)} & set(uuids)
        return frozenset(uuid for uuid in marked if self._is_about(uuid))

    def _is_about(self, uuid: str) -> bool:
        """Whether the marker is about this job, and not about an earlier one of its uuid."""
        job = read_job(self._store, uuid)
        with suppress(ObjectNotFound):
            return (
                job is not None
                and self._store.get(keys.cancel(uuid)).decode() == job.accepted_at.isoformat()
            )
        return False
