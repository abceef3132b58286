"""Writes and reads the store's records as JSON.

The records are frozen dataclasses, handled by pydantic. A reader ignores unknown keys, which newer
versions write. It uses the defaults of missing keys, which older versions left out.
"""

import json
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from seg_pipeline.errors import ObjectNotFound, SegPipelineError
from seg_pipeline.store.objects import Store

T = TypeVar("T")


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


class UnreadableRecord(ValueError):
    """The bytes are not such a record: a power cut damaged them, or another program wrote them."""


def _is_absent(value: object) -> bool:
    return value is None or value == {}


OPTIONAL = Field(exclude_if=_is_absent)
"""Marks a field whose key is written only if it has a value."""


def write(record: Any) -> bytes:
    """The record as JSON in UTF-8, its keys in the order of its fields."""
    try:
        return _adapter(type(record)).dump_json(record)
    except ValueError:  # half a pair of surrogates, which UTF-8 does not have
        return json.dumps(to_document(record), separators=(",", ":")).encode()


def read(kind: type[T], data: bytes) -> T:
    """The record that `write` wrote. Raises UnreadableRecord."""
    try:
        record: T = _validated(_adapter(kind), data)
        return record
    except (ValueError, SegPipelineError) as error:
        raise UnreadableRecord(f"this is no {kind.__name__}: {_reason(error)}") from error


def load(store: Store, kind: type[T], key: str) -> T | None:
    """The record under a key; None if it is missing or unreadable. Raises StoreUnavailable."""
    with suppress(ObjectNotFound, UnreadableRecord):
        return read(kind, store.get(key))
    return None


def to_document(record: Any) -> dict[str, Any]:
    """What `write` writes, as JSON's own types."""
    document: dict[str, Any] = _adapter(type(record)).dump_python(record, mode="json")
    return document


def _validated(adapter: TypeAdapter[Any], data: bytes) -> Any:
    try:
        return adapter.validate_json(data)
    except ValidationError:
        if b"\\ud" not in data.lower():
            raise
    return adapter.validate_python(json.loads(data))  # reads half a pair of surrogates


def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Made once for each kind of record, since that takes milliseconds."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def _reason(error: Exception) -> str:
    """The first error in the record, without the value, which may be long."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])
