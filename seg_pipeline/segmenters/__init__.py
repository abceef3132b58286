"""Models behind one interface: pictures in, segments out. No other package knows which model ran."""

from collections.abc import Sequence
from typing import Protocol

from seg_pipeline.domain import RgbImage, Segment


class Segmenter(Protocol):
    """A model that is loaded and ready.

    `name` is what jobs ask for, `weights_sha256` names the very weights (64 hex digits), and `device` is where it
    runs, as torch spells it.
    """

    name: str
    weights_sha256: str
    device: str

    def segment(self, images: Sequence[RgbImage]) -> list[list[Segment]]:
        """The segments of each `(H, W, 3) uint8` picture, in the order given; masks are full resolution.

        The answer for a picture does not depend on the others beside it. Pictures may differ in size.
        Raises ModelFailed or ModelOutOfMemory.
        """
        ...

    def close(self) -> None:
        """Drops the model and gives its memory back."""
        ...
