"""What the app server is still to be told, in the store: recorded before it is tried, found without
asking every job.

    record    delivery.json → outbox/{due}-{uuid}           with the job's end, see `repository`
    attempt   delivery.json → outbox/{next due}-… → no outbox/{due}-…
    deliver   delivery.json → no outbox/{due}-…             or one that keeps the files for a while
    park      delivery.json → parked/callback-{uuid} → outbox/{kept until}-… → no outbox/{due}-…

`delivery.json` is the truth; a marker whose time is another than the delivery's is a dead process'
leaving, and is put right when its time comes. Between a PATCH and its record a process may die too:
then it is sent once more.
"""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from seg_pipeline.domain import Job
from seg_pipeline.errors import JobNotFound, NothingToTell
from seg_pipeline.jobs.deliveries import Delivery, DeliveryState
from seg_pipeline.jobs.parked_notes import ParkedNote, park
from seg_pipeline.jobs.records import Result, StoredResult
from seg_pipeline.jobs.stored_jobs import read_job, read_result
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import load, write

_MARKER = re.compile(rf"{keys.OUTBOX}([0-9]{{17}})-(.+)")


@dataclass(frozen=True)
class Marker:
    """A job that the outbox has something to do for, from `due_at` on."""

    key: str
    uuid: str
    due_at: datetime


@dataclass(frozen=True)
class DueDelivery:
    """A delivery that is due, and what it is about."""

    delivery: Delivery
    job: Job
    result: Result

    def keep_until(self, now: datetime) -> datetime | None:
        """How long the job's files must stay if it is delivered now: whoever is told late has the
        time to fetch them too. None if at least half of their time is left anyway."""
        ttl = timedelta(seconds=self.job.ttl_seconds)
        left = self.result.expires_at - now
        return now + ttl if left < ttl / 2 else None


class Outbox:
    """The deliveries of a store. Safe to use from several threads and processes; all methods may be
    called again.

    Raises StoreUnavailable when the store does not do its part.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def record(self, stored: StoredResult, now: datetime | None = None) -> None:
        """Makes sure that the app server will be told of this result; once it returns, that cannot
        get lost."""
        uuid, sha256 = stored.result.uuid, stored.sha256
        former = self.delivery(uuid)
        if former is None or former.result_sha256 != sha256:
            self._replace(former, Delivery.begin(uuid, sha256, now or datetime.now(UTC)))
        elif former.due_at:
            self.store.put(
                _key(former.due_at, uuid), b""
            )  # the recorder may have died before it came to this

    def delivery(self, uuid: str) -> Delivery | None:
        """What came of it so far; None if nothing is recorded, or after a power cut."""
        return load(self.store, Delivery, keys.delivery(uuid))

    def waiting(self, now: datetime, limit: int) -> list[Marker]:
        """What is due, the longest first; no job is read for it."""
        markers = (_marker(info.key) for info in self.store.list(keys.OUTBOX, limit=limit))
        return [marker for marker in markers if marker and marker.due_at <= now]

    def take(self, marker: Marker, now: datetime | None = None) -> DueDelivery | None:
        """What is to be sent. None if nothing is: then the marker had served its time, or was wrong
        and is mended."""
        uuid, moment = marker.uuid, now or datetime.now(UTC)
        job, stored = read_job(self.store, uuid), read_result(self.store, uuid)
        delivery = self.delivery(uuid)
        if job is None or not job.callback:
            self.store.delete(marker.key)
        elif (
            stored is None
        ):  # it was there when the marker was made: a power cut took it, so the job is done again
            if self.store.head(marker.key):  # else it is being deleted, the result after the marker
                self.store.create(keys.inbox(uuid), b"")
            self.store.delete(marker.key)
        elif delivery is None or delivery.result_sha256 != stored.sha256:
            self._replace(delivery, Delivery.begin(uuid, stored.sha256, moment))
            self.store.delete(marker.key)
        elif delivery.due_at is None or _key(delivery.due_at, uuid) != marker.key:
            self.record(stored)
            self.store.delete(marker.key)
        elif not delivery.is_pending:
            self.store.delete(marker.key)
        else:
            return DueDelivery(delivery, job, stored.result)
        return None

    def note(self, delivery: Delivery, former: Delivery) -> None:
        """Records what became of a delivery, unless its job has been deleted meanwhile."""
        if self.store.head(keys.request(delivery.uuid)):
            self._replace(former, delivery)

    def replay(self, uuid: str, now: datetime | None = None) -> Delivery:
        """Has the app server told again, from the beginning. Raises JobNotFound, and NothingToTell
        where the job has not ended or was never to be told of."""
        job, stored = read_job(self.store, uuid), read_result(self.store, uuid)
        if job is None:
            raise JobNotFound(uuid)
        if not job.callback:
            raise NothingToTell(
                f"job {uuid} did not come by the queue; the app server does not wait for it."
            )
        if stored is None:
            raise NothingToTell(
                f"job {uuid} has not ended yet; the app server will be told when it has."
            )
        delivery = Delivery.begin(uuid, stored.sha256, now or datetime.now(UTC))
        self._replace(self.delivery(uuid), delivery)
        return delivery

    def release(self, uuid: str) -> None:
        """Lets a parked delivery go: it holds the job's files no longer, and nobody is to look at
        it."""
        delivery = self.delivery(uuid)
        if delivery and delivery.state is DeliveryState.PARKED:
            if delivery.due_at:  # first: without that, nobody would know the marker's name
                self.store.delete(_key(delivery.due_at, uuid))
            self.store.put(keys.delivery(uuid), write(replace(delivery, due_at=None)))

    def uuids(self) -> set[str]:
        """Jobs whose files must stay: not delivered yet, or delivered late or parked not long
        ago."""
        markers = (_marker(info.key) for info in self.store.list(keys.OUTBOX))
        return {marker.uuid for marker in markers if marker}

    def markers_of(self, uuid: str) -> list[str]:
        """The keys outside the job's own folder that go when the job goes."""
        return _markers(self.delivery(uuid))

    def _replace(self, former: Delivery | None, delivery: Delivery) -> None:
        uuid = delivery.uuid
        self.store.put(keys.delivery(uuid), write(delivery))
        if delivery.state is DeliveryState.PARKED:
            reason = delivery.reason or ""
            note = ParkedNote(uuid=uuid, reason=reason, parked_at=datetime.now(UTC))
            park(self.store, _parked_name(uuid), note)
        if delivery.due_at:
            self.store.put(_key(delivery.due_at, uuid), b"")
        for key in set(_markers(former)) - set(_markers(delivery)):
            self.store.delete(key)


def _key(due_at: datetime, uuid: str) -> str:
    """The marker of a delivery; whole microseconds, in integers, since a float would round them."""
    since_epoch = due_at - datetime.fromtimestamp(0, UTC)
    return keys.outbox(since_epoch // timedelta(microseconds=1), uuid)


def _parked_name(uuid: str) -> str:
    return f"callback-{uuid}"


def _markers(delivery: Delivery | None) -> list[str]:
    if delivery is None:
        return []
    parked = (
        [keys.parked(_parked_name(delivery.uuid))] if delivery.state is DeliveryState.PARKED else []
    )
    return [*parked, *([_key(delivery.due_at, delivery.uuid)] if delivery.due_at else [])]


def _marker(key: str) -> Marker | None:
    """What a marker's name says; None for a stranger's."""
    name = _MARKER.fullmatch(key)
    if name is None:
        return None
    microseconds, uuid = name.groups()
    return Marker(
        key, uuid, datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(microseconds))
    )
