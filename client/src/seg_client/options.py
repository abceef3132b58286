"""What may be asked for beside the picture."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

_PROMPTS = ("points", "box", "boxes", "multimask")
"""What goes among the parameters; for a SAM-2, in pixels of the picture."""


class Options(TypedDict, total=False):
    """How to segment. What is left out is as the service is configured.

    A point is `(x, y)` on the object, or `(x, y, label)` with label 1 on it and 0 beside it. A box
    is `(x0, y0, x1, y1)`.
    """

    model: str | None
    resize: int | None
    parameters: Mapping[str, Any] | None
    rle: bool | None
    ttl_seconds: int | None
    webhook: str | None
    priority: Literal["low", "normal", "high"] | None
    reuse: bool | None
    points: Sequence[Sequence[float]] | None
    box: Sequence[float] | None
    boxes: Sequence[Sequence[float]] | None
    multimask: bool | None


class JobOptions(Options, total=False):
    """The same for one picture, whose job may have a uuid of yours.

    `image_of` is the uuid of a job whose picture this one shall have; the picture is then None.
    """

    uuid: str | None
    image_of: str | None


def as_json(options: JobOptions) -> dict[str, Any]:
    """The fields of a JSON body: those that are set, prompts among the parameters."""
    fields: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    prompts = {name: _plain(fields.pop(name)) for name in _PROMPTS if name in fields}
    if prompts:
        fields["parameters"] = {**fields.get("parameters", {}), **prompts}
    return fields


def _plain(value: Any) -> Any:
    """Numbers and lists of JSON, of tuples and arrays too."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(each) for each in value] if isinstance(value, Sequence) else value


def as_query(options: JobOptions) -> dict[str, str]:
    """The same as a query, without `resize`, which is part of the path."""
    fields = as_json(options)
    fields.pop("resize", None)
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in fields.items()
    }
