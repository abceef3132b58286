"""What may be asked for beside the picture."""

import json
from collections.abc import Mapping
from typing import Any, TypedDict


class Options(TypedDict, total=False):
    """How to segment. What is left out is as the service is configured."""

    model: str | None
    resize: int | None
    parameters: Mapping[str, Any] | None
    rle: bool | None
    ttl_seconds: int | None
    webhook: str | None


class JobOptions(Options, total=False):
    """The same for one picture, whose job may have a uuid of yours."""

    uuid: str | None


def as_json(options: JobOptions) -> dict[str, Any]:
    """The fields of a JSON body: those that are set."""
    return {name: value for name, value in options.items() if value is not None}


def as_query(options: JobOptions) -> dict[str, str]:
    """The same as a query, without `resize`, which is part of the path."""
    fields = as_json(options)
    fields.pop("resize", None)
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in fields.items()
    }
