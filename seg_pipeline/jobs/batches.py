"""Batches: many pictures that a client sends as one, under one id.

    accept    (pictures/…) → batch.json → entries/… → batch-work/{id}
    advance   (acceptance of some jobs) → progress.json     see `batch_work`
    job ends  batch-work/{uuid}@{time}                      with the job's end, see `results`
    count     progress.json → no batch-work/{uuid}@{time}
    end       progress.json → its delivery → no batch-work/{id}
    delete    no jobs → no other files → no batch.json

A batch's jobs have uuids that follow from its id and their places. So each of these steps may be
done again, by whoever finds it half done.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from seg_pipeline.errors import BatchConflict, BatchNotFound, ObjectNotFound
from seg_pipeline.jobs.batch_records import PORTION, Batch, BatchProgress, Entry, Portion
from seg_pipeline.jobs.outbox import Outbox
from seg_pipeline.jobs.removal import Removal
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import load, write

CANCEL = b"cancel"
"""What the marker of a batch holds that is to be cancelled."""

AT_ONCE = 200
"""Jobs that are deleted together."""


@dataclass(frozen=True)
class AcceptedBatch:
    """The batch that an id stands for, and whether this very call made it."""

    batch: Batch
    created: bool


class Batches:
    """The batches of a store. Raises StoreUnavailable when the store fails."""

    def __init__(self, store: Store, removal: Removal, outbox: Outbox) -> None:
        self._store = store
        self._removal = removal
        self._outbox = outbox

    def accept(self, batch: Batch, entries: Sequence[Entry]) -> AcceptedBatch:
        """Makes the batch durable and visible to the sensor. Its pictures must be stored before.

        The same request again gives the first batch, and completes an acceptance that died half
        way. Another request under the same id raises BatchConflict.
        """
        if not self._store.create(keys.batch_request(batch.id), write(batch)):
            first = self.find(batch.id)
            if first is None:  # what was there is no batch
                self._store.put(keys.batch_request(batch.id), write(batch))
            elif first.fingerprint != batch.fingerprint:
                raise BatchConflict(batch.id)
            elif self.is_whole(batch.id):
                return AcceptedBatch(first, created=False)
        self._store_entries(batch.id, entries)
        self._store.put(keys.batch_work(batch.id), b"")
        return AcceptedBatch(batch, created=True)

    def known(self, batch_id: str, fingerprint: str) -> Batch | None:
        """The batch if it was accepted before; raises BatchConflict if it was another one."""
        first = self.find(batch_id)
        if first is not None and first.fingerprint != fingerprint:
            raise BatchConflict(batch_id)
        return first if first is not None and self.is_whole(batch_id) else None

    def get(self, batch_id: str) -> Batch:
        """The batch as it was requested. Raises BatchNotFound."""
        batch = self.find(batch_id)
        if batch is None:
            raise BatchNotFound(batch_id)
        return batch

    def find(self, batch_id: str) -> Batch | None:
        """The batch as it was requested, if there is one."""
        return load(self._store, Batch, keys.batch_request(batch_id))

    def progress(self, batch: Batch) -> BatchProgress:
        """How far the batch has come, as the sensor last saw it: two small files, however many
        jobs there are."""
        stored = load(self._store, BatchProgress, keys.batch_progress(batch.id))
        is_ours = stored is not None and len(stored.states) == batch.total
        return stored if stored is not None and is_ours else BatchProgress.begin(batch)

    def picture_seconds(self, batch_id: str) -> float | None:
        """What all stages take for a picture of the batch; None if none has ended yet."""
        stored = load(self._store, BatchProgress, keys.batch_progress(batch_id))
        return stored.picture_seconds if stored else None

    def entries(self, batch: Batch) -> Iterator[Entry]:
        """All entries, a portion at a time. Raises BatchNotFound."""
        for number in range(-(-batch.total // PORTION)):
            yield from self._portion(batch, number)

    def chosen(self, batch: Batch, indices: Sequence[int]) -> dict[int, Entry]:
        """Some entries by their places; each portion is read once. Raises BatchNotFound."""
        numbers = {index // PORTION for index in indices}
        portions = {number: self._portion(batch, number) for number in numbers}
        return {index: portions[index // PORTION][index % PORTION] for index in indices}

    def cancel(self, batch: Batch) -> None:
        """Has the sensor end what has not ended."""
        self._store.put(keys.batch_work(batch.id), CANCEL)

    def note_rerun(self, batch: Batch, backfill_id: str) -> None:
        """Has the sensor wait for a backfill of jobs that failed before it tells of the new end."""
        self._store.put(keys.batch_rerun(batch.id), backfill_id.encode())
        self._store.create(keys.batch_work(batch.id), b"")

    def rerun(self, batch: Batch) -> str | None:
        """The backfill that is to be waited for, if there is one."""
        with suppress(ObjectNotFound):
            return self._store.get(keys.batch_rerun(batch.id)).decode()
        return None

    def end_rerun(self, batch: Batch) -> None:
        """There is no backfill to be waited for any more."""
        self._store.delete(keys.batch_rerun(batch.id))

    def delete(self, batch: Batch) -> None:
        """Removes the batch with its jobs and all their files. To be done again if it dies."""
        uuids = [batch.uuid(index) for index in range(batch.total)]
        for first in range(0, len(uuids), AT_ONCE):
            part = uuids[first : first + AT_ONCE]
            self._store.at_once([partial(self._removal.delete, uuid) for uuid in part])
        self.forget(batch.id)

    def forget(self, batch_id: str) -> None:
        """Removes the batch alone: its jobs then expire as others do."""
        names = keys.names_of_batch(batch_id)
        markers = [key for name in names for key in self._outbox.markers_of(name)]
        for key in (*markers, keys.batch_work(batch_id)):
            self._store.delete(key)
        self._store.delete_folder(f"{keys.BATCHES}{batch_id}/", keep=_is_request)
        self._store.delete_folder(f"{keys.BATCHES}{batch_id}/")

    def ids(self, after: str | None = None, limit: int | None = None) -> list[str]:
        """The batches whose ids come after `after`, whole or not."""
        return [*self._store.list_folders(keys.BATCHES, after, limit)]

    def is_whole(self, batch_id: str) -> bool:
        """Whether the acceptance of the batch came to its end."""
        places = (keys.batch_work(batch_id), keys.batch_progress(batch_id))
        return any(self._store.head(key) for key in places)

    def expired(self, now: datetime, grace: timedelta) -> Iterator[str]:
        """Batches whose time is over, and what is left of acceptances that died."""
        for batch_id in self.ids():
            batch = self.find(batch_id)
            if batch is None or not self.is_whole(batch_id):
                if self._is_untouched(batch_id, now - grace):
                    yield batch_id
            elif (at := batch.expires_at(self.progress(batch))) and at <= now:
                yield batch_id

    def _is_untouched(self, batch_id: str, since: datetime) -> bool:
        infos = self._store.list(f"{keys.BATCHES}{batch_id}/")
        return all(info.last_modified < since for info in infos)

    def _store_entries(self, batch_id: str, entries: Sequence[Entry]) -> None:
        for first in range(0, len(entries), PORTION):
            portion = Portion(tuple(entries[first : first + PORTION]))
            self._store.put(keys.batch_portion(batch_id, first // PORTION), write(portion))

    def _portion(self, batch: Batch, number: int) -> tuple[Entry, ...]:
        portion = load(self._store, Portion, keys.batch_portion(batch.id, number))
        if portion is None:
            raise BatchNotFound(batch.id)
        return portion.entries


def _is_request(key: str) -> bool:
    return key.endswith("/batch.json")
