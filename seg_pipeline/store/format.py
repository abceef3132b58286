"""The format of a store, so that no version touches what it does not know.

The format is the layout of keys and documents. A store without this file is older than the file,
and of format 1. New fields need no new number, since readers ignore unknown fields and use defaults
for missing ones. The number rises when an older version would misread what a newer one writes. The
newer version then reads the former format too.
"""

from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from seg_pipeline.errors import ObjectNotFound, StoreTooNew, StoreUnavailable
from seg_pipeline.store import keys
from seg_pipeline.store.objects import Store
from seg_pipeline.store.serialization import UnreadableRecord, read, write

FORMAT = 1


@dataclass(frozen=True)
class StoreFormat:
    """`format.json`. A newer version's number may be of any type."""

    format: Any
    written_by: str | None = None


def check_format(store: Store) -> None:
    """Marks a store that is new, or older than this file.

    Raises StoreTooNew for a format newer than ours, and StoreUnavailable.
    """
    try:
        found = read(StoreFormat, store.get(keys.FORMAT))
    except ObjectNotFound:
        store.create(keys.FORMAT, write(_ours()))
        return
    except UnreadableRecord:  # a power cut
        store.put(keys.FORMAT, write(_ours()))
        return
    if not isinstance(found.format, int) or found.format > FORMAT:
        raise StoreTooNew(found.format, FORMAT, found.written_by)


def refuse_newer(store: Store) -> None:
    """`check_format` for a start that an unavailable store does not prevent.

    Whoever uses the store then meets the error.
    """
    with suppress(StoreUnavailable):
        check_format(store)


def _ours() -> StoreFormat:
    return StoreFormat(FORMAT, version("seg-pipeline"))
