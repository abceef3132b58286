"""Markers: small objects whose names say where a job stands."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from seg_pipeline.store import ObjectInfo, Store

_PAGE = 1000


def marker_name(info: ObjectInfo) -> str:
    """The last part of the key, which names the job."""
    return info.key.rpartition("/")[2]


def microseconds(at: datetime) -> int:
    """The time in a marker's name, since the epoch: an integer, since a float would round."""
    return (at - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)


def moment_of(microseconds: int) -> datetime:
    """The time that `microseconds` gave."""
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)


def each_marker(store: Store, prefix: str, after: str | None = None) -> Iterator[ObjectInfo]:
    """All objects below the prefix whose names come after `after`, listed a page at a time."""
    last = f"{prefix}{after}" if after else None
    while infos := store.list(prefix, last, _PAGE):
        yield from infos
        last = infos[-1].key
