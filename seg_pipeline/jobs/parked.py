"""What could not become a job or be delivered, and waits for a person: listed, tried again, or
dropped.

    replay   (the job or the delivery anew) → no parked/{name}
    drop     (the delivery lets go of its job's files) → no parked/{name}

The note goes last: whoever dies half way leaves it, and doing it again leads to the same end.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Any

from seg_pipeline.errors import NotReplayable, ObjectNotFound, ParkedNotFound
from seg_pipeline.jobs.deliveries import DeliveryState
from seg_pipeline.jobs.outbox import Outbox
from seg_pipeline.store import ObjectInfo, Store, keys


class ParkedKind(StrEnum):
    """What is parked: a message of the queue, a callback, or a marker of the inbox that no request
    goes with."""

    MESSAGE = "message"
    CALLBACK = "callback"
    MARKER = "marker"


@dataclass(frozen=True)
class Parked:
    """One of them; `name` is what it is known by. A message has its `body`, the others their job's
    `uuid`."""

    name: str
    kind: ParkedKind
    reason: str
    parked_at: datetime
    code: str | None = None
    uuid: str | None = None
    body: str | None = None
    is_cut: bool = False

    def to_json(self) -> dict[str, Any]:
        """What clients see."""
        known = {"code": self.code, "uuid": self.uuid, "body": self.body}
        return {
            "name": self.name,
            "kind": str(self.kind),
            "reason": self.reason,
            "parked_at": self.parked_at.isoformat(),
            **{name: value for name, value in known.items() if value is not None},
        }


@dataclass(frozen=True)
class ParkedList:
    """Part of a listing; `next` is the name to go on after, None at the end."""

    parked: list[Parked] = field(default_factory=list)
    next: str | None = None


class ParkedItems:
    """Everything that is parked in a store. Raises StoreUnavailable when the store does not do its
    part."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._outbox = Outbox(store)

    def page(self, after: str | None, limit: int) -> ParkedList:
        """Those whose names come after `after`, by name."""
        infos = self._store.list(keys.PARKED, keys.parked(after) if after else None, limit + 1)
        found = self._store.at_once([partial(self._read, info) for info in infos[:limit]])
        following = _name(infos[limit - 1].key) if len(infos) > limit else None
        return ParkedList([each for each in found if each], following)

    def get(self, name: str) -> Parked:
        """One of them; raises ParkedNotFound."""
        info = (
            self._store.head(keys.parked(name)) if keys.is_key(name) and "/" not in name else None
        )
        parked = self._read(info) if info else None
        if parked is None:
            raise ParkedNotFound(name)
        return parked

    def replay_callback(self, parked: Parked) -> None:
        """Has the app server told again. Raises JobNotFound or NothingToTell where there is nothing
        to tell."""
        uuid = parked.uuid or ""
        self._outbox.replay(uuid)
        delivery = self._outbox.delivery(uuid)
        if (
            delivery is None or delivery.state is not DeliveryState.PARKED
        ):  # it may have been parked again by now
            self.forget(parked)

    def message_of(self, parked: Parked) -> str:
        """The message as it came; raises NotReplayable if it is none, or is not here whole."""
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
        """Nobody will care for it any more; a callback's job keeps its files no longer than others
        do."""
        if parked.kind is ParkedKind.CALLBACK and parked.uuid:
            self._outbox.release(parked.uuid)
        self.forget(parked)

    def forget(self, parked: Parked) -> None:
        """Takes the note away: to be called once what it stands for is dealt with."""
        self._store.delete(keys.parked(parked.name))

    def _read(self, info: ObjectInfo) -> Parked | None:
        try:
            document = json.loads(self._store.get(info.key))
        except ObjectNotFound:
            return None
        except ValueError:
            document = {}
        return _parked(info, document if isinstance(document, dict) else {})


def _parked(info: ObjectInfo, document: Mapping[str, Any]) -> Parked:
    """What the note says; a power cut may have left it empty."""
    body = document.get("body")
    return Parked(
        name=_name(info.key),
        kind=_kind(info.key, document),
        reason=str(document.get("reason", "the note on it cannot be read")),
        parked_at=_time(document.get("parked_at")) or info.last_modified,
        code=document.get("code"),
        uuid=document.get("uuid"),
        body=body if isinstance(body, str) else None,
        is_cut=bool(
            document.get("is_cut", isinstance(body, str) and len(body) >= OLD_BODY_CHARACTERS)
        ),
    )


OLD_BODY_CHARACTERS = 8192
"""Notes of earlier releases were cut here, and did not say so."""


def _kind(key: str, document: Mapping[str, Any]) -> ParkedKind:
    if keys.is_parked_callback(key):
        return ParkedKind.CALLBACK
    return (
        ParkedKind.MESSAGE if "body" in document or "message_id" in document else ParkedKind.MARKER
    )


def _name(key: str) -> str:
    return key.removeprefix(keys.PARKED)


def _time(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (TypeError, ValueError):
        return None
