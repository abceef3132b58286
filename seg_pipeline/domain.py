"""The nouns of the service: a job, its picture's segments and their masks.

All are frozen, and check themselves.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum, StrEnum
from hashlib import sha256
from pathlib import PurePath
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, PlainSerializer, WithJsonSchema

from seg_pipeline.errors import (
    InvalidParameter,
    InvalidPrompt,
    InvalidResize,
    InvalidTtl,
    InvalidUuid,
    UnknownModel,
)
from seg_pipeline.prompts import BESIDE_PROMPTS, Values, check_prompts, has_prompts

UUID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
_UUID = re.compile(UUID_PATTERN)
_NUMBER = re.compile(r"[+-]?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_QUEUES = "queue-"
BATCH_ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_-]{0,50}"
_OF_BATCH = re.compile(rf"batch-({BATCH_ID_PATTERN})-([0-9]{{6}})")
MAX_BATCH_JOBS = 1_000_000
"""What the number in a job's uuid can count."""

DEMO_MODELS = ("demo-yolo", "demo-sam2")
SAM2_AND_YOLO = "sam2+yolo"
"""The model of named masks, of whichever SAM-2 and YOLO are offered."""

_NAMED_MASKS = re.compile(r"((?:demo-sam2|sam2)[^+]*)\+((?!demo-sam2|sam2)[^+]+)")
"""Two SAM-2s are none: a worker would wait for a model that it has borrowed itself."""

MAX_RESIZE = 8192
MAX_TTL_SECONDS = 30 * 24 * 3600
MAX_URL_LENGTH = 8192
"""Characters of an image_url, by whichever way it comes."""

MAX_WEBHOOK_LENGTH = 2048
"""Characters of a webhook's address."""

RgbImage = NDArray[np.uint8]
"""A picture as `(H, W, 3) uint8`, red first, upright."""

BoolMask = NDArray[np.bool_]
"""A mask as `(H, W) bool`."""

Parameters = Mapping[str, Any]
"""A job's values in place of the configured ones, by name.

These are `confidence` of a YOLO, the fields of `Sam2Parameters`, or prompts for a SAM-2 (see
`prompts`).
"""


NotNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


def _in_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


Moment = Annotated[
    datetime,
    AfterValidator(_in_utc),
    PlainSerializer(datetime.isoformat, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A time as records keep it: in UTC, written as `2026-01-02T12:00:00+00:00`."""


class JobStatus(StrEnum):
    """The status of a job, in the four words that clients see."""

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


class Priority(StrEnum):
    """Whose turn is earlier among jobs that wait."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class Lane(IntEnum):
    """Who goes first where all workers are busy. Runs of a later lane give way to earlier ones."""

    SINGLE = 0
    QUEUE = 1
    BATCH = 2


def check_uuid(uuid: str) -> str:
    """The uuid, if it is safe as a path segment, a partition key and a file name; else InvalidUuid.

    It is any 1 to 64 letters, digits, `-` and `_` that begin with a letter or digit: the app
    server's uuids need not be RFC 4122's.
    """
    if not isinstance(uuid, str) or not _UUID.fullmatch(uuid):
        raise InvalidUuid(uuid)
    return uuid


def queue_uuid(uuid: str) -> str:
    """The uuid of a queue's job whose own uuid a client has taken.

    Clients may send none like it.
    """
    return f"{_QUEUES}{sha256(uuid.encode()).hexdigest()[:40]}"


def check_client_uuid(uuid: str) -> str:
    """The uuid, if a client may give it to a job; else InvalidUuid."""
    if re.fullmatch(rf"{_QUEUES}[0-9a-f]{{40}}", check_uuid(uuid)) or batch_of(uuid):
        raise InvalidUuid(uuid)
    return uuid


def check_batch_id(batch_id: str) -> str:
    """The id, if it can name a batch: a uuid of at most 51 characters; else InvalidUuid."""
    if not re.fullmatch(BATCH_ID_PATTERN, batch_id):
        raise InvalidUuid(batch_id)
    return batch_id


def batch_uuid(batch_id: str, index: int) -> str:
    """The uuid of a batch's job, by its place from 0. Clients may send none like it."""
    return f"batch-{batch_id}-{index:06d}"


def batch_of(uuid: str) -> str | None:
    """The batch that the job belongs to; None for a job of its own."""
    found = _OF_BATCH.fullmatch(uuid)
    return found[1] if found else None


def index_in_batch(uuid: str) -> int:
    """The place of a batch's job in the batch, from 0."""
    return int(uuid.rpartition("-")[2])


def check_resize(resize: int | None) -> int | None:
    """The longer side of the cut-outs in pixels, 1 to 8192, or None for their natural size."""
    if resize is not None and not 1 <= resize <= MAX_RESIZE:
        raise InvalidResize(resize, MAX_RESIZE)
    return resize


def check_ttl_seconds(ttl_seconds: int) -> int:
    """How long a result is kept, 1 second to 30 days."""
    if not 1 <= ttl_seconds <= MAX_TTL_SECONDS:
        raise InvalidTtl(ttl_seconds, MAX_TTL_SECONDS)
    return ttl_seconds


def check_model(model: str, offered: Sequence[str] = ()) -> str:
    """The model's name, if it is a demo model or one that the operator offers; else UnknownModel.

    So no client names a file of the server, or has gigabytes of weights downloaded.
    """
    named = resolved_model(model, offered)
    if model in offered or all(each in (*offered, *DEMO_MODELS) for each in parts_of(named)):
        return named
    raise UnknownModel(
        model, [*(name for name in offered if shown_model(name) == name), *DEMO_MODELS]
    )


def parts_of(model: str) -> tuple[str, ...]:
    """The models that a name stands for: a SAM-2 and what names its masks, or one alone."""
    both = _NAMED_MASKS.fullmatch(model)
    return both.groups() if both else (model,)


def resolved_model(model: str, offered: Sequence[str] = ()) -> str:
    """The name with `sam2+yolo` as the first SAM-2 and the first YOLO that are offered.

    A query turns `+` into a space, so that is read as `+` too.
    """
    if model not in offered and _NAMED_MASKS.fullmatch(model.replace(" ", "+")):
        model = model.replace(" ", "+")
    if model != SAM2_AND_YOLO:
        return model
    single = [name for name in offered if len(parts_of(name)) == 1]
    masks = [name for name in single if _is_sam2(name)] or ["demo-sam2"]
    labels = [name for name in single if not _is_sam2(name)] or ["demo-yolo"]
    return f"{masks[0]}+{labels[0]}"


def _is_sam2(model: str) -> bool:
    return model.startswith(("sam2", "demo-sam2"))


def shown_model(model: str) -> str:
    """What clients may see of a model's name: of a path only the last part."""
    return "+".join(PurePath(part).name for part in parts_of(model))


def whole_number(value: object) -> object:
    """A float that is a whole number as an int; any other value unchanged.

    256.0 and 36e2 are integers of JSON (JSON Schema, 6.1.1).
    """
    return int(value) if isinstance(value, float) and value.is_integer() else value


def number_in_text(text: str) -> object:
    """The number that a query or a form spells as JSON would; any other text unchanged.

    Leading zeros are allowed.
    """
    match = _NUMBER.fullmatch(text.strip(" "))
    if not match:
        return text
    return float(match[0]) if match[1] or match[2] else int(match[0])


@dataclass(frozen=True)
class Range:
    """The numbers that a parameter may be, both ends included; with `whole`, integers only."""

    least: float
    most: float
    whole: bool = False

    def read(self, value: object) -> int | float | None:
        """The value as a number, or None if it is not in the range.

        25.0 is a whole number. `true` is not a number.
        """
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not self.least <= value <= self.most
        ):
            return None
        if self.whole:
            return int(value) if value == int(value) else None
        return value

    def __str__(self) -> str:
        return f"a {'whole ' if self.whole else ''}number from {self.least:g} to {self.most:g}"


class Switch:
    """A parameter that is true or false. It is kept as 1 or 0, and read from these too."""

    def read(self, value: object) -> int | None:
        """1 or 0; None for anything else."""
        return int(value) if isinstance(value, bool | int) and value in (0, 1) else None

    def __str__(self) -> str:
        return "true or false"


SAM2_PARAMETERS: Mapping[str, Range | Switch] = {
    "points_per_side": Range(1, 64, whole=True),
    "points_per_batch": Range(1, 256, whole=True),
    "pred_iou_thresh": Range(0, 1),
    "stability_score_thresh": Range(0, 1),
    "stability_score_offset": Range(0, 32),
    "mask_threshold": Range(-32, 32),  # the network's logits end there
    "box_nms_thresh": Range(0, 1),
    "crop_n_layers": Range(0, 2, whole=True),
    "crop_nms_thresh": Range(0, 1),
    "crop_overlap_ratio": Range(0, 1),
    "crop_n_points_downscale_factor": Range(1, 4, whole=True),
    "min_mask_region_area": Range(0, 1_000_000, whole=True),
    "use_m2m": Switch(),
    "multimask_output": Switch(),
}
YOLO_PARAMETERS: Mapping[str, Range | Switch] = {"confidence": Range(0, 1)}
NAMING_PARAMETERS: Mapping[str, Range | Switch] = {
    "label_iou": Range(0, 1),
    "distinct": Switch(),
    "duplicate_iou": Range(0, 1),
}

POINTS_PER_SIDE = 32
"""The side of SAM-2's usual grid of prompts."""

MAX_PROMPTS = 8 * POINTS_PER_SIDE**2
"""The most prompts of one job for a SAM-2.

That is eight times the usual grid, and just enough for upstream's richest example.
"""


def parameters_of(model: str) -> Mapping[str, Range | Switch]:
    """What a job may set for a model, and to which values."""
    if len(parts_of(model)) > 1:
        return {**SAM2_PARAMETERS, **YOLO_PARAMETERS, **NAMING_PARAMETERS}
    return SAM2_PARAMETERS if _is_sam2(model) else YOLO_PARAMETERS


def check_parameters(model: str, parameters: Mapping[str, Any]) -> Parameters:
    """The parameters as plain numbers and prompts, checked; else InvalidParameter or InvalidPrompt.

    The model must have each of them, and each must be within its limits. Together they must not
    keep a worker busy for too long.
    """
    known, prompts = parameters_of(model), _prompts(model, parameters)
    numbers = {
        name: _read_parameter(model, name, value, known)
        for name, value in parameters.items()
        if name not in prompts
    }
    if "points_per_side" in known:
        _check_grid(numbers)
    return {**numbers, **prompts}


def _prompts(model: str, parameters: Mapping[str, Any]) -> dict[str, Values]:
    """The prompts among the parameters, which must suit the model and what else is set."""
    if not has_prompts(parameters):
        return {}
    if parameters_of(model) is not SAM2_PARAMETERS:
        raise InvalidPrompt(
            f"{shown_model(model)[:80]} takes no prompts; name a SAM-2 for points and boxes."
        )
    for name in parameters:
        if name in SAM2_PARAMETERS and name not in BESIDE_PROMPTS:
            raise InvalidPrompt(
                f"parameter {name} is for automatic masks; leave it out with points or boxes."
            )
    return check_prompts(parameters)


def _read_parameter(
    model: str, name: str, value: object, known: Mapping[str, Range | Switch]
) -> int | float:
    if name not in known:
        raise InvalidParameter(
            f"parameter {name[:80]!r} is unknown to {shown_model(model)[:80]}, which has"
            f" {', '.join(known)}."
        )
    number = known[name].read(value)
    if number is None:
        raise InvalidParameter(f"parameter {name} {str(value)[:40]} must be {known[name]}.")
    return number


def _check_grid(parameters: Mapping[str, int | float]) -> None:
    """Checks the number of prompts of the grid.

    Each layer of crops has four times the crops of the layer before, and in each a thinner grid if
    a factor is set.
    """
    points = int(parameters.get("points_per_side", POINTS_PER_SIDE))
    layers = int(parameters.get("crop_n_layers", 0))
    factor = int(parameters.get("crop_n_points_downscale_factor", 1))
    sides = [int(points / factor**layer) for layer in range(layers + 1)]
    if min(sides) < 1:
        raise InvalidParameter(
            f"points_per_side {points} leaves no point in the crops of {layers} layers when each"
            f" has {factor} times fewer; ask for more points, or a smaller"
            " crop_n_points_downscale_factor."
        )
    prompts = sum(side**2 * 4**layer for layer, side in enumerate(sides))
    if prompts > MAX_PROMPTS:
        raise InvalidParameter(
            f"the parameters ask for {prompts} prompts, more than {MAX_PROMPTS}; lower"
            " points_per_side or crop_n_layers, or raise crop_n_points_downscale_factor."
        )


@dataclass(frozen=True)
class Box:
    """A rectangle of whole pixels, half open.

    Its columns are `x` to `x + width`, its rows `y` to `y + height`.
    """

    x: NotNegative
    y: NotNegative
    width: Positive
    height: Positive

    def __post_init__(self) -> None:
        if min(self.x, self.y) < 0 or min(self.width, self.height) < 1:
            raise ValueError(
                f"a box needs a corner at 0 or above and a side of at least 1 pixel, not {self}"
            )

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index an `(H, W)` array."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


def _is_tight(bits: BoolMask) -> bool:
    """Whether a pixel is set in the first and last row and column."""
    return all(edge.any() for edge in (bits[0], bits[-1], bits[:, 0], bits[:, -1]))


@dataclass(frozen=True, eq=False)
class Mask:
    """The pixels of one segment: a tight box, and the bits inside it.

    `resolution_wh` is the size of the picture. `bits` is `(box.height, box.width) bool` with at
    least one pixel set in its first and last row and column. Since it holds only the box, thirty
    masks of a large picture take a few megabytes.
    """

    resolution_wh: tuple[int, int]
    box: Box
    bits: BoolMask

    def __post_init__(self) -> None:
        if self.bits.dtype != np.bool_ or self.bits.shape != (self.box.height, self.box.width):
            raise ValueError(f"bits must be bool {(self.box.height, self.box.width)}, not "
                             f"{self.bits.dtype} {self.bits.shape}")  # fmt: skip
        width, height = self.resolution_wh
        if self.box.x + self.box.width > width or self.box.y + self.box.height > height:
            raise ValueError(f"{self.box} lies outside the picture of {width}x{height}")
        if not _is_tight(self.bits):
            raise ValueError(f"{self.box} is not tight: no pixel is set along one of its sides")

    @classmethod
    def from_full(cls, full: BoolMask) -> "Mask | None":
        """The mask of a full-frame `(H, W) bool`, or None if no pixel is set."""
        height, width = full.shape
        return cls.from_window(full, (0, 0), (width, height))

    @classmethod
    def from_window(
        cls, window: BoolMask, xy: tuple[int, int], resolution_wh: tuple[int, int]
    ) -> "Mask | None":
        """The mask of a `(h, w) bool` window with its corner at `xy`; None if it is empty."""
        if window.size and _is_tight(window):
            box = Box(*xy, window.shape[1], window.shape[0])
            return cls(resolution_wh, box, np.ascontiguousarray(window))
        rows, columns = np.flatnonzero(window.any(axis=1)), np.flatnonzero(window.any(axis=0))
        if not rows.size:
            return None
        inner = Box(int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
        box = Box(xy[0] + inner.x, xy[1] + inner.y, inner.width, inner.height)
        return cls(resolution_wh, box, np.ascontiguousarray(window[inner.slices]))

    def full(self) -> BoolMask:
        """The mask in the whole picture, `(H, W) bool`."""
        width, height = self.resolution_wh
        full = np.zeros((height, width), dtype=np.bool_)
        full[self.box.slices] = self.bits
        return full

    @property
    def area(self) -> int:
        """The number of set pixels."""
        return int(np.count_nonzero(self.bits))


@dataclass(frozen=True, eq=False)
class Segment:
    """One segment of a picture.

    Scores are plain floats of about 0 to 1; a model fills those it has.

    YOLO gives `label` and `confidence`. SAM-2 gives `predicted_iou` (its guess, which may exceed 1
    slightly) and `stability_score`. `prompt` is the place of the box that it was asked for by.
    Named masks have the `name` of a thing in the picture, and a `parent`, the smallest segment
    around it.
    """

    mask: Mask
    label: str | None = None
    confidence: float | None = None
    predicted_iou: float | None = None
    stability_score: float | None = None
    prompt: int | None = None
    name: str | None = None
    parent: "Segment | None" = None

    def __post_init__(self) -> None:
        for score in (self.confidence, self.predicted_iou, self.stability_score):
            if score is not None and not (isinstance(score, float | int) and math.isfinite(score)):
                raise ValueError(f"a score must be a finite number or None, not {score!r}")


@dataclass(frozen=True)
class Job:
    """A job as requested: `request.json`. The image is an upload (`source_sha256`) or a URL.

    `parameters` override the configured ones of its model. With `rle` its segments carry their run
    lengths. `told_as` is the uuid that the app server knows it by, if a client had taken that for
    another job. `webhook` is the address that is told of its end in the app server's place.
    `priority` changes when it runs, and nothing of its answer.
    """

    uuid: str
    model: str
    image_url: str | None = None
    source_sha256: str | None = None
    source_extension: str | None = None
    resize: int | None = None
    ttl_seconds: int = 3600
    via: str = "http"
    callback: bool = False
    parameters: Parameters = field(default_factory=dict)
    rle: bool = False
    told_as: str | None = None
    webhook: str | None = None
    priority: Priority = Priority.NORMAL
    accepted_at: Moment = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        check_uuid(self.uuid)
        check_resize(self.resize)
        check_ttl_seconds(self.ttl_seconds)
        object.__setattr__(self, "parameters", check_parameters(self.model, self.parameters))
        if (self.image_url is None) == (self.source_sha256 is None):
            raise ValueError(f"job {self.uuid} needs an image_url or an upload, and not both")

    @property
    def callback_uuid(self) -> str:
        """The uuid under which the app server is told of it."""
        return self.told_as or self.uuid

    @property
    def is_the_queues(self) -> bool:
        """Whether a message asked for it, whoever did first."""
        return self.via == "sqs" or self.callback

    @property
    def is_awaited(self) -> bool:
        """Whether somebody is to be told of its end: the app server or a webhook."""
        return self.callback or self.webhook is not None

    def asks_the_same_as(self, other: "Job") -> bool:
        """Whether both would give the same answer, so that one uuid can stand for them."""
        return self._asked() == other._asked()

    def _asked(self) -> tuple[object, ...]:
        picture = (self.image_url, self.source_sha256)
        return (
            self.uuid,
            self.model,
            *picture,
            self.resize,
            self.ttl_seconds,
            self.parameters,
            self.rle,
            self.webhook,
        )

    def expires_at(self, finished_at: datetime) -> datetime:
        """When its files may be pruned, if it finished then."""
        return finished_at + timedelta(seconds=self.ttl_seconds)
