"""The removal of jobs, and of what dead processes left of them."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from seg_pipeline.errors import ObjectNotFound
from seg_pipeline.jobs.outbox import Outbox
from seg_pipeline.jobs.records import OUTCOMES
from seg_pipeline.jobs.stored_jobs import is_known, read_job, read_result
from seg_pipeline.store import Store, keys

_SOURCES = 10
"""More than a job ever has: a source, its description, and what came of fetching it."""


class Removal:
    """Removes jobs from a store."""

    def __init__(self, store: Store, outbox: Outbox) -> None:
        self._store = store
        self._outbox = outbox

    def delete(self, uuid: str) -> bool:
        """Removes the job with all its files, wherever it stands; says whether there was one.

        A job that is accepted under the uuid meanwhile stays.
        """
        markers = (
            *(keys.retry(uuid), keys.fetching(uuid), keys.inbox(uuid)),
            keys.cancel(uuid),
            keys.progress(uuid),
        )
        return self._delete(uuid, self._sources(uuid), *markers)

    def remove_leftovers(self, uuid: str) -> None:
        """Removes what a dead deletion, a dead acceptance or a late run left.

        It never removes a living job.
        """
        # Before the request is read: else these could be the sources of a job that comes now.
        sources = self._sources(uuid)
        if read_job(self._store, uuid) is None or not is_known(self._store, uuid):
            self._delete(uuid, sources)

    def withdraw(self, uuid: str) -> bool:
        """Removes request and source of a job that nothing leads to; False if something does."""
        if is_known(self._store, uuid):
            return False
        for key in self._sources(uuid):
            self._store.delete(key)
        self._delete_request(uuid)
        return True

    def _delete(self, uuid: str, sources: Iterable[str], *markers: str) -> bool:
        """Removes all of the job, with the markers given; says whether there was a request.

        The sources go while the job is known: an acceptance writes none for a known job. Then
        goes what makes it known. Result and request go together: so nothing half-deleted is
        served, and hardly anybody takes the request for a living job's. The indexes go last: they
        lead to a deletion that died, which is then completed.
        """
        reads: list[Callable[[], Any]] = [
            partial(read_result, self._store, uuid),
            partial(self._outbox.markers_of, uuid),
        ]
        stored, outbox = self._store.at_once(reads)
        for key in (*sources, *markers, keys.inflight(uuid), *outbox, keys.result(uuid)):
            self._store.delete(key)
        existed = self._delete_request(uuid)
        self._store.delete_folder(keys.asset(uuid, ""), keep=keys.comes_with_acceptance)
        for outcome in OUTCOMES:
            self._store.delete(keys.done(outcome, uuid))
        if stored:
            self._store.delete(stored.result.expiry_key)
        return existed

    def _delete_request(self, uuid: str) -> bool:
        """Removes the request; says whether there was one.

        Another process may accept the same job meanwhile. It has then made a marker, and may have
        looked for the request before. The request is put back for it.
        """
        try:
            request = self._store.get(keys.request(uuid))
        except ObjectNotFound:
            return False
        self._store.delete(keys.request(uuid))
        if any(self._store.head(key) for key in (keys.fetching(uuid), keys.inbox(uuid))):
            self._store.create(keys.request(uuid), request)
        return True

    def _sources(self, uuid: str) -> list[str]:
        """The keys of the picture as received, of its description, and of its fetch."""
        infos = self._store.list(
            keys.asset(uuid, ""), after=keys.asset(uuid, "source"), limit=_SOURCES
        )
        return [info.key for info in infos if keys.comes_with_acceptance(info.key)]
