"""Prompts for a SAM-2: a picture that is asked about more than once, and what is asked."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

from seg_client.errors import PictureNotKept
from seg_client.flows import Flow, segment
from seg_client.options import JobOptions, Options

Point: TypeAlias = Sequence[float]
"""`(x, y)` on the object, or `(x, y, label)` with label 1 on it and 0 beside it."""

PromptBox: TypeAlias = Sequence[float]
"""`(x0, y0, x1, y1)`: the upper left and the lower right corner."""


class Prompts(TypedDict, total=False):
    """What of a picture shall be masked, in its own pixels."""

    points: Sequence[Point]
    box: PromptBox
    boxes: Sequence[PromptBox]
    multimask: bool


class Asked:
    """The picture of a session, and the job that has it at the service."""

    def __init__(self, picture: str | bytes, options: Options) -> None:
        self._picture, self._options = picture, options
        self._kept_by: str | None = None

    def ask(self, prompts: Prompts, timeout: float, retry_seconds: float) -> Flow[dict[str, Any]]:
        """The completed job of a prompt. The picture is sent only while the service has none."""
        options: JobOptions = {**self._options, **_lists(prompts)}  # type: ignore[typeddict-item]
        if self._kept_by is not None:
            try:
                kept: JobOptions = {**options, "image_of": self._kept_by}
                return (yield from self._job(b"", kept, timeout, retry_seconds))
            except PictureNotKept:
                self._kept_by = None
        return (yield from self._job(self._picture, options, timeout, retry_seconds))

    def _job(
        self, picture: str | bytes, options: JobOptions, timeout: float, retry_seconds: float
    ) -> Flow[dict[str, Any]]:
        job = yield from segment(picture, options, timeout, retry_seconds)
        self._kept_by = str(job["uuid"])
        return job


def _lists(prompts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in prompts.items() if value is not None}
