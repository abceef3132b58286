"""Requests to cancel jobs, each a marker that whoever works on the job finds."""

from collections.abc import Collection
from contextlib import suppress

from seg_pipeline.errors import ObjectNotFound
from seg_pipeline.jobs.markers import marker_name
from seg_pipeline.jobs.stored_jobs import get_job, read_job
from seg_pipeline.store import Store, keys


class Cancels:
    """The jobs of a store that are to be cancelled."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def request(self, uuid: str) -> None:
        """Has whoever works on the job stop and end it as cancelled. Raises JobNotFound."""
        accepted_at = get_job(self._store, uuid).accepted_at
        self._store.put(keys.cancel(uuid), accepted_at.isoformat().encode())

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
