"""Writes JSON documents whose last key is a long list, item by item."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

Piece = bytes | Iterable[bytes]


def with_list(head: Mapping[str, Any], key: str, items: Iterable[Piece]) -> Iterator[bytes]:
    """The document of `head`, which has at least one key, and then the items under `key`.

    An item is JSON, whole or in pieces.
    """
    yield compact(head)[:-1] + b"," + compact(key) + b":["
    for index, item in enumerate(items):
        yield b",\n" if index else b"\n"
        yield from (item,) if isinstance(item, bytes) else item
    yield b"\n]}\n"


def compact(value: Any) -> bytes:
    """The value as JSON in UTF-8, without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()


def listed(items: Iterable[Piece]) -> Iterator[bytes]:
    """A list of items, each whole or in pieces."""
    yield b"["
    for index, item in enumerate(items):
        first = (b",",) if index else ()
        yield from chain(first, (item,) if isinstance(item, bytes) else item)
    yield b"]"
