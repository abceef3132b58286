"""Chooses what segments the pictures of a command: a running service, or this process."""

import http.client
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seg_pipeline.domain import check_parameters, number_in_text, parts_of, resolved_model
from seg_pipeline.errors import InvalidParameter, InvalidPrompt
from seg_pipeline.local.sample import ask
from seg_pipeline.local.stack import base_url
from seg_pipeline.settings import Settings, listed

if TYPE_CHECKING:
    from seg_pipeline.cli.segment import PictureService

Say = Callable[[str], None]


class WrongUsage(Exception):
    """The command's options are wrong; the message says which and why."""


@dataclass(frozen=True)
class Wish:
    """How the pictures shall be segmented. `parameters` are JSON's text."""

    server: str | None = None
    alone: bool = False
    api_key: str | None = None
    model: str | None = None
    resize: int | None = None
    parameters: str | None = None
    points: Sequence[str] = ()
    boxes: Sequence[str] = ()
    priority: str | None = None

    @property
    def has_prompts(self) -> bool:
        """Whether what a point or a box shows is asked for."""
        return bool(self.points or self.boxes)


def open_service(wish: Wish, settings: Settings, say: Say) -> "PictureService":
    """The service asked for, else the one of this machine if it runs, else this process.

    Raises WrongUsage, or ModelError if the model cannot be had here.
    """
    if wish.alone and wish.server:
        raise WrongUsage("--alone and --server exclude each other; leave one out.")
    parameters = {**read_parameters(wish.parameters), **read_prompts(wish.points, wish.boxes)}
    local = base_url(settings)
    if wish.server or (not wish.alone and _is_there(local)):
        url, api_key = address_of(wish.server, wish.api_key, settings)
        if not wish.server:
            say(f"The service at {local} segments; --alone does without it.")
        return _remote(url, api_key, wish, parameters)
    return _alone(wish, settings, parameters, say)


def address_of(
    server: str | None, api_key: str | None, settings: Settings
) -> tuple[str, str | None]:
    """A service's address and the key for it: of the server named, else of this machine's.

    Only this machine's service gets a key of API_KEYS. Raises WrongUsage.
    """
    if server:
        return _checked(server), api_key
    return base_url(settings), api_key or _first_key(settings)


def read_parameters(text: str | None) -> dict[str, Any]:
    """The parameters of their JSON; none without a text. Raises WrongUsage."""
    try:
        read = json.loads(text) if text is not None else {}
    except ValueError as error:
        raise WrongUsage(f"--parameters is no JSON ({error}).") from error
    if not isinstance(read, dict):
        raise WrongUsage('--parameters must be an object of JSON, such as {"confidence": 0.5}.')
    return read


def read_prompts(points: Sequence[str], boxes: Sequence[str]) -> dict[str, Any]:
    """The parameters of `x,y`, `x,y,0` and `x0,y0,x1,y1`. Raises WrongUsage."""
    found: dict[str, Any] = {}
    if points:
        found["points"] = [_numbers("--point", text, (2, 3), "x,y or x,y,0") for text in points]
    if boxes:
        corners = [_numbers("--box", text, (4,), "x0,y0,x1,y1") for text in boxes]
        found |= {"box": corners[0]} if len(corners) == 1 else {"boxes": corners}
    return found


def _numbers(option: str, text: str, counts: tuple[int, ...], form: str) -> list[int | float]:
    numbers = [number_in_text(each) for each in text.split(",")]
    if len(numbers) not in counts or any(isinstance(each, str) for each in numbers):
        raise WrongUsage(f"{option} {text[:40]} must be {form}, in pixels of the picture.")
    return [each for each in numbers if isinstance(each, int | float)]


def _remote(
    url: str, api_key: str | None, wish: Wish, parameters: dict[str, Any]
) -> "PictureService":
    from seg_pipeline.adapters.remote_service import RemoteService

    wanted = {
        "model": wish.model,
        "resize": wish.resize,
        "parameters": parameters,
        "priority": wish.priority,
    }
    return RemoteService(url, api_key, wanted)


def _alone(
    wish: Wish, settings: Settings, parameters: dict[str, Any], say: Say
) -> "PictureService":
    from seg_pipeline.cli.download_progress import shown_progress
    from seg_pipeline.pipeline.alone import Alone
    from seg_pipeline.segmenters.weights.locate import find_weights
    from seg_pipeline.telemetry.logs import configure_logging

    # What failed is told by picture.
    configure_logging("segment", level=logging.CRITICAL)
    model = resolved_model(wish.model or settings.model, settings.offered_models)
    try:
        numbers = check_parameters(model, parameters)
    except (InvalidParameter, InvalidPrompt) as error:
        raise WrongUsage(str(error)) from error
    here = settings.model_copy(update={"model": model})
    with shown_progress(say) as progress:
        for part in parts_of(model):
            find_weights(part, here, progress)
    say(f"{model} segments on this machine, without a service.")
    return Alone(here, numbers, wish.resize)


def _checked(server: str) -> str:
    if not server.startswith(("http://", "https://")):
        raise WrongUsage(f"--server {server} is no address; it begins with http:// or https://.")
    return server


def _is_there(url: str) -> bool:
    """Whether a service of ours lives there."""
    try:
        return ask("GET", f"{url}/livez", timeout_seconds=1).status == 200
    except (OSError, http.client.HTTPException):
        return False


def _first_key(settings: Settings) -> str | None:
    return listed(settings.api_keys.get_secret_value())[0] if settings.api_keys else None
