"""Idempotency keys: which job or batch a client's key stands for, so that a request sent twice is
one of them.

A key is written before its job is accepted. If the process dies in between, the same request under
the same key is accepted as the same job.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from seg_pipeline.domain import Moment
from seg_pipeline.errors import IdempotencyKeyReused, ObjectNotFound, StoreUnavailable
from seg_pipeline.jobs.markers import each_marker
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import UnreadableRecord, read, write

_TRIES = 5


@dataclass(frozen=True)
class KeyUse:
    """The job or batch of a key, and the hash of what was asked for with it."""

    uuid: str
    asked: str
    used_at: Moment


class IdempotencyKeys:
    """The idempotency keys of a store. It is safe to use from several processes."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def uuid_of(self, name: str, asked: str, uuid: str) -> str:
        """The uuid of the key's job or batch, which is the one given if the key is new.

        Raises IdempotencyKeyReused if something else was asked for with it.
        """
        use = KeyUse(uuid, asked, datetime.now(UTC))
        for _ in range(_TRIES):
            if self._store.create(keys.idempotency(name), write(use)):
                return uuid
            first = self._first_use(name)
            if first is not None:
                return _uuid_if_same(first, asked)
        raise StoreUnavailable("the idempotency key comes and goes; try again in a moment.")

    def older_than(self, before: datetime) -> Iterator[str]:
        """The store's keys of those that were used first before that time."""
        for info in each_marker(self._store, keys.IDEMPOTENCY):
            if info.last_modified < before:
                yield info.key

    def _first_use(self, name: str) -> KeyUse | None:
        """What is known of the key; None if it has just gone, or cannot be read: then it goes."""
        key = keys.idempotency(name)
        try:
            return read(KeyUse, self._store.get(key))
        except ObjectNotFound:
            return None
        except UnreadableRecord:
            self._store.delete(key)
            return None


def _uuid_if_same(first: KeyUse, asked: str) -> str:
    if first.asked != asked:
        raise IdempotencyKeyReused
    return first.uuid
