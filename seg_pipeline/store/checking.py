"""Checks that a store keeps its promises, on throwaway objects."""

import secrets

from seg_pipeline.errors import ObjectNotFound, StoreUnavailable
from seg_pipeline.store.objects import Store


def check_round_trip(store: Store, prefix: str) -> None:
    """Writes, reads and deletes a small object below the prefix.

    Raises StoreUnavailable if it does not come back.
    """
    key = f"{prefix}{secrets.token_hex(8)}"
    store.put(key, key.encode())
    try:
        if store.get(key) != key.encode():
            raise StoreUnavailable("the store gives back other bytes than were written.")
    except ObjectNotFound as error:
        raise StoreUnavailable("the store does not find what was just written.") from error
    finally:
        store.delete(key)


def check_create(store: Store, prefix: str) -> None:
    """Raises StoreUnavailable if a second `create` replaces what the first one wrote.

    Some S3-like servers ignore `If-None-Match`. Two jobs could then share a uuid.
    """
    key = f"{prefix}{secrets.token_hex(8)}"
    try:
        first, second = store.create(key, b"1"), store.create(key, b"2")
    finally:
        store.delete(key)
    if not first or second:
        raise StoreUnavailable(
            "the store ignores If-None-Match: it cannot tell which of two writers was first."
        )
