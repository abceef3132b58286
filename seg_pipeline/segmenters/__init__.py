"""Models behind one interface: pictures in, segments out.

No other package knows which model ran.
"""

import os
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from seg_pipeline.domain import Parameters, RgbImage, Segment

# OpenMP reads this when torch loads, so it stands here, before any model's module. Without it the
# threads of a layer spin while they wait for one another. On two busy cores a picture then took 3 s
# instead of 0.13.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


Notes = dict[str, str | int | float | bool]
"""Facts about how a model ran, for those who examine its output."""


class Segmenter(Protocol):
    """A loaded model.

    Jobs choose it by `name`. `weights_sha256` identifies its weights (64 hex digits). `device` is
    where it runs, as torch spells it. `notes` say how it runs: its `inference_mode`, and what was
    not available.
    """

    name: str
    weights_sha256: str
    device: str
    notes: Notes

    def segment(
        self, images: Sequence[RgbImage], parameters: Parameters | None = None
    ) -> list[list[Segment]]:
        """The segments of each `(H, W, 3) uint8` picture, in the given order; masks have full size.

        The answer for a picture does not depend on the others in the call. Pictures may differ in
        size. `parameters` override the configured ones; those of other models are ignored. Raises
        ModelFailed or ModelOutOfMemory.
        """
        ...

    def close(self) -> None:
        """Drops the model and frees its memory."""
        ...


@runtime_checkable
class Settling(Protocol):
    """A model that becomes quicker in the background once it is loaded."""

    def settle(self) -> None:
        """Waits until it is as quick as it gets."""
        ...
