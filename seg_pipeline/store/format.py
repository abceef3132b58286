"""Which layout of keys and documents a store has, so that no version touches what it does not know.

A store of before this file was written has none, and is of format 1. Fields may be added without a
new number, since readers take defaults for those that are missing and pass over those that they do
not know. The number rises when an older version would misread what a newer one writes; the newer
one then reads the former format too.
"""

import json
from contextlib import suppress
from importlib.metadata import version

from seg_pipeline.errors import ObjectNotFound, StoreTooNew, StoreUnavailable
from seg_pipeline.store import keys
from seg_pipeline.store.objects import Store

FORMAT = 1


def check_format(store: Store) -> None:
    """Marks a store that is new, or older than this file. Raises StoreTooNew if it is of a format
    that comes after ours, and StoreUnavailable."""
    try:
        found = json.loads(store.get(keys.FORMAT))
        number, writer = found["format"], found.get("written_by")
    except ObjectNotFound:
        store.create(keys.FORMAT, _document())
        return
    except (ValueError, TypeError, KeyError):  # a power cut
        store.put(keys.FORMAT, _document())
        return
    if not isinstance(number, int) or number > FORMAT:
        raise StoreTooNew(number, FORMAT, writer)


def refuse_newer(store: Store) -> None:
    """`check_format` for a start that a store which is away does not stop: whoever uses it finds
    out."""
    with suppress(StoreUnavailable):
        check_format(store)


def _document() -> bytes:
    return json.dumps({"format": FORMAT, "written_by": version("seg-pipeline")}).encode()
