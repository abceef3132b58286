"""Prompts: points and boxes that say what in a picture a SAM-2 shall mask.

Coordinates are pixels of the picture as the model sees it, upright, from its upper left corner.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from seg_pipeline.errors import InvalidPrompt, PromptOutside

PROMPT_PARAMETERS = ("points", "box", "boxes", "multimask")
"""The parameters that ask for a prompt's masks instead of automatic ones."""

BESIDE_PROMPTS = ("mask_threshold", "stability_score_offset", "min_mask_region_area")
"""The parameters of automatic masks that a prompt's masks have too."""

MAX_POINTS = 64
MAX_BOXES = 64
LARGEST_COORDINATE = 1_000_000
"""Beyond any picture's side; larger numbers are refused before the picture's size is known."""

Number = int | float
Values = int | float | tuple[Number, ...] | tuple[tuple[Number, ...], ...]
"""A prompt parameter's value, as it is kept: JSON's arrays as tuples."""


@dataclass(frozen=True)
class Prompt:
    """What one object is to be found by: points `(x, y, label)` and a box `(x0, y0, x1, y1)`.

    A point's label is 1 on the object and 0 beside it. `number` is the box's place among `boxes`,
    if it comes from there.
    """

    points: tuple[tuple[Number, ...], ...] = ()
    box: tuple[Number, ...] | None = None
    number: int | None = None

    @property
    def is_ambiguous(self) -> bool:
        """Whether a part and the whole may be meant: a point alone."""
        return self.box is None and len(self.points) == 1


def has_prompts(parameters: Mapping[str, Any] | None) -> bool:
    """Whether a prompt's masks are asked for."""
    return any(name in PROMPT_PARAMETERS for name in parameters or ())


def prompts_of(parameters: Mapping[str, Any]) -> list[Prompt]:
    """The prompts of checked parameters; none where automatic masks are asked for."""
    boxes = parameters.get("boxes", ())
    if boxes:
        return [Prompt(box=box, number=number) for number, box in enumerate(boxes)]
    if not has_prompts(parameters):
        return []
    return [Prompt(parameters.get("points", ()), parameters.get("box"))]


def check_prompts(parameters: Mapping[str, Any]) -> dict[str, Values]:
    """The prompt parameters among the parameters, checked; else InvalidPrompt.

    There must be something to look at: points with one on the object, a box, or boxes.
    """
    read: dict[str, Values] = {
        name: _READ[name](name, parameters[name])
        for name in PROMPT_PARAMETERS
        if name in parameters
    }
    if "boxes" in read and ("points" in read or "box" in read):
        raise InvalidPrompt("boxes are an object each; send them without points and box.")
    if not read.keys() & {"points", "box", "boxes"}:
        raise InvalidPrompt("multimask needs a prompt; send points, a box or boxes with it.")
    if "points" in read and "box" not in read and not _any_inside(read["points"]):
        raise InvalidPrompt("points need one on the object, with label 1, where there is no box.")
    return read


def check_inside(parameters: Mapping[str, Any], resolution_wh: tuple[int, int]) -> None:
    """Raises PromptOutside if a point or a corner lies outside the picture.

    Corners of boxes may lie on its edge.
    """
    width, height = resolution_wh
    for prompt in prompts_of(parameters):
        for x, y, _ in prompt.points:
            if x >= width or y >= height:
                raise PromptOutside(f"point ({x:g}, {y:g})", resolution_wh)
        if prompt.box and (prompt.box[2] > width or prompt.box[3] > height):
            shown = ", ".join(f"{each:g}" for each in prompt.box)
            raise PromptOutside(f"box ({shown})", resolution_wh)


def check_inside_either_way(parameters: Mapping[str, Any], size_wh: tuple[int, int]) -> None:
    """The same for a picture that may yet be turned: refuses what is outside in both ways."""
    try:
        check_inside(parameters, size_wh)
    except PromptOutside as error:
        try:
            check_inside(parameters, size_wh[::-1])
        except PromptOutside:
            raise error from None


def _points(name: str, value: object) -> tuple[tuple[Number, ...], ...]:
    return tuple(_point(each) for each in _listed(name, value, MAX_POINTS))


def _point(value: object) -> tuple[Number, ...]:
    if not isinstance(value, list | tuple) or len(value) not in (2, 3):
        raise InvalidPrompt(
            f"point {_shown(value)} must be [x, y, label], label 1 on the object or 0 beside it."
        )
    x, y, label = (*value, 1)[:3]
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, bool) or label not in (0, 1):
        raise InvalidPrompt(
            f"label {_shown(label)} of a point must be 1 on the object or 0 beside it."
        )
    return _coordinate(x), _coordinate(y), label


def _box(_name: str, value: object) -> tuple[Number, ...]:
    if not isinstance(value, list | tuple) or len(value) != 4:
        raise InvalidPrompt(f"box {_shown(value)} must be [x0, y0, x1, y1].")
    x0, y0, x1, y1 = map(_coordinate, value)
    if x0 >= x1 or y0 >= y1:
        raise InvalidPrompt(
            f"box {_shown(value)} must go from its upper left corner to its lower right one."
        )
    return x0, y0, x1, y1


def _boxes(name: str, value: object) -> tuple[tuple[Number, ...], ...]:
    return tuple(_box(name, each) for each in _listed(name, value, MAX_BOXES))


def _multimask(_name: str, value: object) -> int:
    if not isinstance(value, bool | int) or value not in (0, 1):
        raise InvalidPrompt(f"multimask {_shown(value)} must be true or false.")
    return int(value)


_READ: Mapping[str, Callable[[str, object], Values]] = {
    "points": _points,
    "box": _box,
    "boxes": _boxes,
    "multimask": _multimask,
}


def _listed(name: str, value: object, most: int) -> list[object] | tuple[object, ...]:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= most:
        count = len(value) if isinstance(value, list | tuple) else "no list"
        raise InvalidPrompt(f"{name} must be a list of 1 to {most}, not {count}.")
    return value


def _coordinate(value: object) -> Number:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value <= LARGEST_COORDINATE
    ):
        raise InvalidPrompt(
            f"coordinate {_shown(value)} must be a number of pixels from 0 to the picture's side."
        )
    return value


def _any_inside(points: Any) -> bool:
    return any(label == 1 for _, _, label in points)


def _shown(value: object) -> str:
    return str(value)[:60]
