"""Models behind one interface: pictures in, segments out. No other package knows which model
ran."""

import os
from collections.abc import Sequence
from typing import Protocol

from seg_pipeline.domain import Parameters, RgbImage, Segment

# Read by OpenMP when torch loads, so it has to be here, before any model's module. Without it the
# threads of a layer spin while they wait for one another: on two cores that something else uses
# too, a picture took 3 s instead of 0.13.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


Notes = dict[str, str | int | float | bool]
"""Facts about how a model ran, for whoever looks at what it found."""


class Segmenter(Protocol):
    """A model that is loaded and ready.

    `name` is what jobs ask for, `weights_sha256` names the very weights (64 hex digits), and
    `device` is where it runs, as torch spells it. `notes` says how it runs: its `inference_mode`,
    and what it had to do without.
    """

    name: str
    weights_sha256: str
    device: str
    notes: Notes

    def segment(
        self, images: Sequence[RgbImage], parameters: Parameters | None = None
    ) -> list[list[Segment]]:
        """The segments of each `(H, W, 3) uint8` picture, in the order given; masks are full
        resolution.

        The answer for a picture does not depend on the others beside it. Pictures may differ in
        size. `parameters` are asked for instead of the configured ones, those of other models
        ignored. Raises ModelFailed or ModelOutOfMemory.
        """
        ...

    def close(self) -> None:
        """Drops the model and gives its memory back."""
        ...
