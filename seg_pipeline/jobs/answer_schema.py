"""The JSON schema of what a job answers, made from the records of `answers`.

`make schema` writes `docs/job-result.schema.json`.
"""

import json
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from seg_pipeline.domain import JobStatus
from seg_pipeline.jobs.answers import (
    CALLBACK_PATH,
    Addresses,
    Callback,
    FileNames,
    FinishedJob,
    Height,
    OverlayAddress,
    Segments,
    UnfinishedJob,
    Uuid,
    WeightsSha256,
    Width,
)
from seg_pipeline.jobs.records import FailureReason

PATH = Path("docs/job-result.schema.json")

_SOME, _NONE = Field(min_length=1), Field(max_length=0)


@dataclass(frozen=True, kw_only=True)
class CompletedJob(FinishedJob):
    """A job that found what there is, which may be nothing."""

    status: Literal[JobStatus.COMPLETED]
    file_names: Annotated[FileNames, _SOME]
    urls: Annotated[Addresses, _SOME]
    overlay_url: OverlayAddress
    weights_sha256: WeightsSha256
    width: Width
    height: Height
    error: None


@dataclass(frozen=True, kw_only=True)
class FailedJob(FinishedJob):
    """A job that ended without a result; it has no files."""

    status: Literal[JobStatus.FAILED]
    file_names: Annotated[FileNames, _NONE]
    urls: Annotated[Addresses, _NONE]
    segments: Annotated[Segments, _NONE]
    overlay_url: None
    error: FailureReason


@dataclass(frozen=True, kw_only=True)
class OpenJob(UnfinishedJob):
    """A job that waits or is being worked on."""

    status: Literal[JobStatus.QUEUED, JobStatus.PROCESSING]
    file_names: Annotated[FileNames, _NONE]
    urls: Annotated[Addresses, _NONE]
    segments: Annotated[Segments, _NONE]


@dataclass(frozen=True, kw_only=True)
class CompletedCallback:
    """The app server is told what was found."""

    uuid: Uuid
    status: Literal[JobStatus.COMPLETED]
    segments: Segments


@dataclass(frozen=True, kw_only=True)
class FailedCallback(Callback):
    """The app server is told why the job failed; there are no segments."""

    status: Literal[JobStatus.FAILED]
    segments: Annotated[Segments, _NONE]
    error: FailureReason


_NAMES = {
    "CompletedJob": "completed",
    "FailedJob": "failed",
    "OpenJob": "unfinished",
    "CompletedCallback": "completed_callback",
    "FailedCallback": "failed_callback",
    "PublicSegment": "segment",
    "FailureReason": "error",
    "RunLengths": "rle",
    "Point": "point",
    "Box": "box",
}
"""What the schema calls the records; clients may refer to these."""

_HEAD = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "https://seg-pipeline.invalid/job-result.schema.json",
    "title": "What a job answers",
    "description": (
        "What clients get for a job (GET /jobs/{uuid}, POST /segment: #/$defs/answer), and the"
        " PATCH that the app server gets (#/$defs/callback)."
    ),
    "anyOf": [{"$ref": "#/$defs/answer"}, {"$ref": "#/$defs/callback"}],
}
_ANSWERS = ("CompletedJob", "FailedJob", "OpenJob")
_CALLBACKS = ("CompletedCallback", "FailedCallback")
_CALLBACK = (
    f"The body of PATCH {{APP_SERVER_URL}}{CALLBACK_PATH}{{uuid}}. `error` is there if and only if"
    " the job failed; then there are no segments."
)


class _Generator(GenerateJsonSchema):
    """Describes what is served: all keys but the optional ones, and no others."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """No titles: the keys say the same."""
        return False

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        """No defaults: all values are served."""
        return self.generate_inner(schema["schema"])

    def field_is_required(self, field: Any, total: bool) -> bool:
        """Whether the key is written whatever its value."""
        return "serialization_exclude_if" not in field

    def dataclass_field_schema(self, schema: Any) -> JsonSchemaValue:
        """An optional key is left out, and is never null."""
        document = super().dataclass_field_schema(schema)
        if self.field_is_required(schema, True) or "anyOf" not in document:
            return document
        (value,) = (each for each in document.pop("anyOf") if each != {"type": "null"})
        return {**value, **document}

    def dataclass_schema(self, schema: Any) -> JsonSchemaValue:
        """No other keys; the docstring in one line."""
        document = super().dataclass_schema(schema)
        del document["title"]
        text = " ".join(cleandoc(document["description"]).split())
        return {**document, "description": text, "additionalProperties": False}


def make_schema() -> dict[str, Any]:
    """The schema of all that goes out about a job (JSON Schema 2020-12)."""
    kinds = (CompletedJob, FailedJob, OpenJob, CompletedCallback, FailedCallback)
    _, document = TypeAdapter.json_schemas(
        [(kind.__name__, "serialization", TypeAdapter(kind)) for kind in kinds],
        schema_generator=_Generator,
    )
    definitions = {
        "answer": {"oneOf": _references(_ANSWERS)},
        "callback": {"description": _CALLBACK, "oneOf": _references(_CALLBACKS)},
        **{name: document["$defs"][name] for name in _NAMES},
    }
    return _renamed({**_HEAD, "$defs": definitions})


def _references(names: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"$ref": f"#/$defs/{name}"} for name in names]


def _renamed(document: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(document)
    for ours, public in _NAMES.items():
        text = text.replace(f'"#/$defs/{ours}"', f'"#/$defs/{public}"')
        text = text.replace(f'"{ours}": {{', f'"{public}": {{')
    renamed: dict[str, Any] = json.loads(text)
    return renamed


def schema_text() -> str:
    """The file's content."""
    return json.dumps(make_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(schema_text())
