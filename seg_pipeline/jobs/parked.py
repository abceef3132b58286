"""What could not become a job or be delivered: a person lists it, replays it or drops it.

    replay   (the job or the delivery anew) → no parked/{name}
    drop     (the delivery lets go of its job's files) → no parked/{name}

The note goes last. A process that dies half way leaves it, and doing it again completes it.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Annotated

from pydantic import Field

from seg_pipeline.domain import Moment
from seg_pipeline.errors import NotReplayable, ObjectNotFound, ParkedNotFound
from seg_pipeline.jobs.deliveries import DeliveryState
from seg_pipeline.jobs.outbox import Outbox
from seg_pipeline.jobs.parked_notes import ParkedNote
from seg_pipeline.store import ObjectInfo, Store, keys
from seg_pipeline.store.serialization import OPTIONAL, UnreadableRecord, read


class ParkedKind(StrEnum):
    """What is parked: a message of the queue, a callback, or an inbox marker without a request."""

    MESSAGE = "message"
    CALLBACK = "callback"
    MARKER = "marker"


@dataclass(frozen=True)
class Parked:
    """A parked item: a message with its `body`, or a callback or marker with its job's `uuid`."""

    name: str
    kind: ParkedKind
    reason: str
    parked_at: Moment
    code: Annotated[str | None, OPTIONAL, Field(description="Why it cannot be a job.")] = None
    uuid: Annotated[str | None, OPTIONAL] = None
    body: Annotated[str | None, OPTIONAL] = None
    is_cut: Annotated[bool, Field(exclude=True)] = False


@dataclass(frozen=True)
class ParkedList:
    """A page of parked items; `next` goes into `after`, and is null at the end."""

    parked: tuple[Parked, ...] = ()
    next: str | None = None


class ParkedItems:
    """Everything that is parked in a store. Raises StoreUnavailable when the store fails."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._outbox = Outbox(store)

    def page(self, after: str | None, limit: int) -> ParkedList:
        """The items whose names come after `after`, by name."""
        infos = self._store.list(keys.PARKED, keys.parked(after) if after else None, limit + 1)
        found = self._store.at_once([partial(self._read, info) for info in infos[:limit]])
        following = _name(infos[limit - 1].key) if len(infos) > limit else None
        return ParkedList(tuple(each for each in found if each), following)

    def get(self, name: str) -> Parked:
        """The item of that name; raises ParkedNotFound."""
        info = (
            self._store.head(keys.parked(name)) if keys.is_key(name) and "/" not in name else None
        )
        parked = self._read(info) if info else None
        if parked is None:
            raise ParkedNotFound(name)
        return parked

    def replay_callback(self, parked: Parked) -> None:
        """Has the app server told again. Raises JobNotFound or NothingToTell."""
        uuid = parked.uuid or ""
        self._outbox.replay(uuid)
        delivery = self._outbox.delivery(uuid)
        is_parked_again = delivery is not None and delivery.state is DeliveryState.PARKED
        if not is_parked_again:
            self.forget(parked)

    def message_of(self, parked: Parked) -> str:
        """The message as it came; raises NotReplayable if it is no message, or was cut."""
        if parked.kind is ParkedKind.MARKER:
            raise NotReplayable(
                f"{parked.name} is a marker without a request: there is nothing to replay; drop it."
            )
        if parked.body is None or parked.is_cut:
            raise NotReplayable(
                f"the message {parked.name} was too long to be kept whole; drop it and send"
                " another."
            )
        return parked.body

    def drop(self, parked: Parked) -> None:
        """Takes the item away for good.

        A callback's job then keeps its files no longer than other jobs do.
        """
        if parked.kind is ParkedKind.CALLBACK and parked.uuid:
            self._outbox.release(parked.uuid)
        self.forget(parked)

    def forget(self, parked: Parked) -> None:
        """Takes the note away; to be called once its item is dealt with."""
        self._store.delete(keys.parked(parked.name))

    def _read(self, info: ObjectInfo) -> Parked | None:
        try:
            return _parked(info, read(ParkedNote, self._store.get(info.key)))
        except ObjectNotFound:
            return None
        except UnreadableRecord:  # a power cut may have left it empty
            return _parked(info, ParkedNote())


def _parked(info: ObjectInfo, note: ParkedNote) -> Parked:
    return Parked(
        name=_name(info.key),
        kind=_kind(info.key, note),
        reason=note.reason,
        parked_at=note.parked_at or info.last_modified,
        code=note.code,
        uuid=note.uuid,
        body=note.body,
        is_cut=_is_cut(note),
    )


def _is_cut(note: ParkedNote) -> bool:
    if note.is_cut is None:
        return len(note.body or "") >= OLD_BODY_CHARACTERS
    return note.is_cut


OLD_BODY_CHARACTERS = 8192
"""Earlier releases cut a body to this length, and did not say so."""


def _kind(key: str, note: ParkedNote) -> ParkedKind:
    if keys.is_parked_callback(key):
        return ParkedKind.CALLBACK
    is_message = note.body is not None or note.message_id is not None
    return ParkedKind.MESSAGE if is_message else ParkedKind.MARKER


def _name(key: str) -> str:
    return key.removeprefix(keys.PARKED)
