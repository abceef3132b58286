"""What the app server and webhooks are still to be told, in the store.

A delivery is recorded before it is tried. It is found without a look at every job.

    record    delivery.json → outbox/{due}-{uuid}           with the job's end, see `repository`
    attempt   delivery.json → outbox/{next due}-… → no outbox/{due}-…
    deliver   delivery.json → no outbox/{due}-…             or one that keeps the files for a while
    park      delivery.json → parked/callback-{uuid} → outbox/{kept until}-… → no outbox/{due}-…

`delivery.json` is the truth. A dead process may leave a marker whose time is not the delivery's.
Such a marker is put right when its time comes. A process may also die between a PATCH and its
record. Then the PATCH is sent once more.

A webhook's marker is `webhooks/{host}/{due}-{uuid}`. So each host has a queue of its own.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from seg_pipeline.domain import Job
from seg_pipeline.errors import JobNotFound, NothingToTell
from seg_pipeline.jobs.batch_records import Batch, BatchProgress
from seg_pipeline.jobs.deliveries import Delivery, DeliveryState
from seg_pipeline.jobs.markers import microseconds, moment_of
from seg_pipeline.jobs.parked_notes import ParkedNote, park
from seg_pipeline.jobs.records import Result, StoredResult
from seg_pipeline.jobs.stored_jobs import read_job, read_result
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import load, write


@dataclass(frozen=True)
class Marker:
    """A job for which the outbox has something to do, from `due_at` on."""

    key: str
    uuid: str
    due_at: datetime


@dataclass(frozen=True)
class DueDelivery:
    """A delivery that is due, with its job and result."""

    delivery: Delivery
    job: Job
    result: Result

    def keep_until(self, now: datetime) -> datetime | None:
        """Until when the job's files must stay if it is delivered now.

        An app server that is told late has the time to fetch them too. None if at least half of
        their time is left anyway.
        """
        return _keep_until(now, self.job.ttl_seconds, self.result.expires_at)


@dataclass(frozen=True)
class DueBatch:
    """A delivery that is due, with its batch and how that ended."""

    delivery: Delivery
    batch: Batch
    progress: BatchProgress

    def keep_until(self, now: datetime) -> datetime | None:
        """Until when the batch's files must stay, as those of a job."""
        expires_at = self.batch.expires_at(self.progress)
        return _keep_until(now, self.batch.ttl_seconds, expires_at) if expires_at else None


def _keep_until(now: datetime, ttl_seconds: int, expires_at: datetime) -> datetime | None:
    ttl = timedelta(seconds=ttl_seconds)
    return now + ttl if expires_at - now < ttl / 2 else None


class Outbox:
    """The deliveries of a store.

    It is safe to use from several threads and processes. All methods may be called again. They
    raise StoreUnavailable when the store fails.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def record(
        self, stored: StoredResult, now: datetime | None = None, host_id: str | None = None
    ) -> None:
        """Makes sure that the app server, or the webhook's host, will be told of this result.

        Once it returns, the delivery cannot get lost.
        """
        self._record(stored.result.uuid, stored.sha256, now, host_id)

    def record_batch(self, batch: Batch, sha256: str, now: datetime) -> None:
        """As `record`, for the end of a batch and everybody who is told of it.

        `sha256` tells this end from another.
        """
        for name in _names_of(batch):
            self._record(name, sha256, now, _host_id_by(name, batch))

    def _record(
        self, uuid: str, sha256: str, now: datetime | None, host_id: str | None = None
    ) -> None:
        former = self.delivery(uuid)
        if former is None or former.result_sha256 != sha256:
            moment = now or datetime.now(UTC)
            self._replace(former, Delivery.begin(uuid, sha256, moment, host_id))
        elif former.due_at:
            # The process that recorded it may have died before it made the marker.
            self.store.put(_key(former.due_at, former), b"")

    def delivery(self, uuid: str) -> Delivery | None:
        """What came of telling about the job; None if there is no record that can be read."""
        return load(self.store, Delivery, keys.delivery(uuid))

    def webhook_queues(self) -> Sequence[str]:
        """The prefixes of webhooks' hosts for which there is something to do, now or later."""
        return [keys.webhooks(name) for name in self.store.list_folders(keys.WEBHOOKS)]

    def waiting(self, now: datetime, limit: int, queue: str = keys.OUTBOX) -> list[Marker]:
        """What is due in a queue, the longest first; no job is read."""
        markers = (_marker(info.key) for info in self.store.list(queue, limit=limit))
        return [marker for marker in markers if marker and marker.due_at <= now]

    def take(self, marker: Marker, now: datetime | None = None) -> DueDelivery | None:
        """What is to be sent.

        None if the marker had served its time, or if it was wrong: then it is put right.
        """
        uuid, moment = marker.uuid, now or datetime.now(UTC)
        job, stored = read_job(self.store, uuid), read_result(self.store, uuid)
        delivery = self.delivery(uuid)
        if job is None or not job.is_awaited:
            self.store.delete(marker.key)
        elif stored is None:
            self._do_again(marker)
        elif delivery is None or delivery.result_sha256 != stored.sha256:
            again = Delivery.begin(uuid, stored.sha256, moment, host_id_of(job))
            self._replace(delivery, again)
            self.store.delete(marker.key)
        elif delivery.due_at is None or _key(delivery.due_at, delivery) != marker.key:
            self.record(stored, host_id=host_id_of(job))
            self.store.delete(marker.key)
        elif not delivery.is_pending:
            self.store.delete(marker.key)
        else:
            return DueDelivery(delivery, job, stored.result)
        return None

    def take_batch(self, marker: Marker, now: datetime) -> DueBatch | None:
        """As `take`, for a marker that stands for a batch."""
        due, delivery = self._ended_batch(marker.uuid), self.delivery(marker.uuid)
        if due is None or delivery is None:
            self.store.delete(marker.key)
        elif delivery.due_at is None or _key(delivery.due_at, delivery) != marker.key:
            self._record(marker.uuid, delivery.result_sha256, now)
            self.store.delete(marker.key)
        elif not delivery.is_pending:
            self.store.delete(marker.key)
        else:
            return DueBatch(delivery, *due)
        return None

    def note(self, delivery: Delivery, former: Delivery) -> None:
        """Records what became of a delivery, unless its job has been deleted meanwhile."""
        if self.store.head(keys.told_of(delivery.uuid)):
            self._replace(former, delivery)

    def replay(self, uuid: str, now: datetime | None = None) -> Delivery:
        """Has the app server told again, from the beginning.

        Raises JobNotFound. Raises NothingToTell if the job has not ended, or has no callback.
        """
        if batch_id := keys.batch_told(uuid):
            return self._replay_batch(uuid, batch_id, now or datetime.now(UTC))
        job, stored = read_job(self.store, uuid), read_result(self.store, uuid)
        if job is None:
            raise JobNotFound(uuid)
        if not job.is_awaited:
            raise NothingToTell(
                f"job {uuid} did not come by the queue; the app server does not wait for it."
            )
        if stored is None:
            raise NothingToTell(
                f"job {uuid} has not ended yet; the app server will be told when it has."
            )
        moment = now or datetime.now(UTC)
        delivery = Delivery.begin(uuid, stored.sha256, moment, host_id_of(job))
        self._replace(self.delivery(uuid), delivery)
        return delivery

    def release(self, uuid: str) -> None:
        """Gives up a parked delivery for good.

        It no longer keeps the job's files.
        """
        delivery = self.delivery(uuid)
        if delivery and delivery.state is DeliveryState.PARKED:
            if delivery.due_at:  # first: the delivery alone knows its name
                self.store.delete(_key(delivery.due_at, delivery))
            self.store.put(keys.delivery(uuid), write(replace(delivery, due_at=None)))

    def uuids(self, queue: str = keys.OUTBOX) -> set[str]:
        """Jobs whose files must stay; of all webhooks with `keys.WEBHOOKS`.

        They are not delivered yet, or were delivered late or parked not long ago.
        """
        markers = (_marker(info.key) for info in self.store.list(queue))
        return {marker.uuid for marker in markers if marker}

    def markers_of(self, uuid: str) -> list[str]:
        """The delivery's keys outside the job's own folder, which go with the job."""
        return _markers(self.delivery(uuid))

    def _replay_batch(self, name: str, batch_id: str, now: datetime) -> Delivery:
        due = self._ended_batch(name)
        if due is None:
            raise NothingToTell(f"batch {batch_id} has not ended, or nobody is to be told of it.")
        delivery = Delivery.begin(name, due[1].sha256, now, _host_id_by(name, due[0]))
        self._replace(self.delivery(name), delivery)
        return delivery

    def _ended_batch(self, name: str) -> tuple[Batch, BatchProgress] | None:
        """A batch that has ended and is to be told of."""
        batch_id = keys.batch_told(name) or ""
        batch = load(self.store, Batch, keys.batch_request(batch_id))
        progress = load(self.store, BatchProgress, keys.batch_progress(batch_id))
        if batch is None or progress is None or not progress.ended_at:
            return None
        if name not in _names_of(batch):
            return None
        return batch, progress

    def _do_again(self, marker: Marker) -> None:
        """Has a job run again whose result is gone.

        The result was there when the marker was made: so a power cut took it. Without the marker,
        the job is being deleted: a deletion removes the marker first, and then the result.
        """
        if self.store.head(marker.key):
            self.store.create(keys.inbox(marker.uuid), b"")
        self.store.delete(marker.key)

    def _replace(self, former: Delivery | None, delivery: Delivery) -> None:
        uuid = delivery.uuid
        self.store.put(keys.delivery(uuid), write(delivery))
        if delivery.state is DeliveryState.PARKED:
            reason = delivery.reason or ""
            note = ParkedNote(uuid=uuid, reason=reason, parked_at=datetime.now(UTC))
            park(self.store, keys.parked_callback(uuid), note)
        if delivery.due_at:
            self.store.put(_key(delivery.due_at, delivery), b"")
        for key in set(_markers(former)) - set(_markers(delivery)):
            self.store.delete(key)


def _names_of(batch: Batch) -> list[str]:
    """The names of a batch in the outbox, one for each who is to be told of its end."""
    told = {
        keys.told_batch(batch.id): batch.callback,
        keys.batch_webhook(batch.id): batch.webhook,
    }
    return [name for name, is_told in told.items() if is_told]


def _host_id_by(name: str, batch: Batch) -> str | None:
    return host_id_of(batch) if keys.is_batch_webhook(name) else None


def host_id_of(told: Job | Batch) -> str | None:
    """A name for the host and port of the webhook, as the store's keys may hold it."""
    if told.webhook is None:
        return None
    origin = "/".join(told.webhook.lower().split("/", 3)[:3])
    return hashlib.sha256(origin.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _key(due_at: datetime, delivery: Delivery) -> str:
    """The marker of a delivery."""
    if delivery.host_id:
        return keys.webhook(delivery.host_id, microseconds(due_at), delivery.uuid)
    return keys.outbox(microseconds(due_at), delivery.uuid)


def _markers(delivery: Delivery | None) -> list[str]:
    if delivery is None:
        return []
    due = [_key(delivery.due_at, delivery)] if delivery.due_at else []
    if delivery.state is not DeliveryState.PARKED:
        return due
    return [keys.parked(keys.parked_callback(delivery.uuid)), *due]


def _marker(key: str) -> Marker | None:
    """What a marker's name says; None for a name that is not ours."""
    due = keys.due_of(key)
    return Marker(key, due[1], moment_of(due[0])) if due else None
