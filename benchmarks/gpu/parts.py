"""The parts of the GPU benchmarks, in their order, and how long each may take."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A module with `measure`, and the seconds after which it is ended."""

    module: str
    seconds: float


PARTS = {
    "card": Part("benchmarks.gpu.card", 90),
    "sam2": Part("benchmarks.gpu.sam2", 240),
    "yolo_masks": Part("benchmarks.gpu.yolo_masks", 60),
    "yolo": Part("benchmarks.gpu.yolo", 150),
    "service": Part("benchmarks.gpu.service", 150),
    "sam2_tiny": Part("benchmarks.gpu.sam2_tiny", 180),
}

ALL_SECONDS = 460.0
"""The limit of all parts together. A part that would begin later is not measured."""
