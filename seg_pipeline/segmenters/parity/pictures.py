"""The pictures for comparing turbo with exact: drawn scenes and photographs.

The photographs come with ultralytics. They are used whole, mirrored and in parts.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from seg_pipeline.demo.scenes import make_scene
from seg_pipeline.domain import DEMO_MODELS, RgbImage
from seg_pipeline.imaging.images import decode

SCENES = {(640, 480): range(4), (480, 480): range(4, 8)}
MORE_SCENES = {(320, 320): range(8, 12), (480, 640): range(12, 16), (960, 720): range(16, 20)}
"""Seeds by width and height."""

PART = 0.6
"""The share of each side that a corner takes.

Four corners of that size overlap, so that an object cut by one is whole in another.
"""

PHOTOGRAPHS = ("bus.jpg", "zidane.jpg")
MAX_PIXELS = 10_000_000
SAMPLE = Path(__file__).parents[2] / "demo" / "sample.jpg"


def parity_pictures(model: str) -> list[list[RgbImage]]:
    """Twenty-two pictures in groups of one shape, a batch each; the same for all but demo models.

    Demo models only know drawn shapes. What they take for shapes in a photograph are guesses around
    the threshold, which any rounding moves across it. So they get more scenes instead.
    """
    sample = _both_ways(_read(SAMPLE))
    if model in DEMO_MODELS:
        return [*_scenes(SCENES | MORE_SCENES), sample]
    photographs = [photograph(name) for name in PHOTOGRAPHS]
    return [*_scenes(SCENES), sample, *map(_both_ways, photographs), *map(_corners, photographs)]


def photograph(name: str) -> RgbImage:
    """One of `PHOTOGRAPHS`, which come with ultralytics."""
    spec = find_spec("ultralytics")
    assert spec is not None, "ultralytics is a dependency"
    assert spec.origin is not None, "ultralytics is a package with files"
    return _read(Path(spec.origin).parent / "assets" / name)


def _scenes(seeds_by_size: dict[tuple[int, int], range]) -> list[list[RgbImage]]:
    return [
        [make_scene(seed, width=width, height=height).image for seed in seeds]
        for (width, height), seeds in seeds_by_size.items()
    ]


def _read(path: Path) -> RgbImage:
    return decode(path.read_bytes(), MAX_PIXELS)


def _both_ways(picture: RgbImage) -> list[RgbImage]:
    return [picture, np.ascontiguousarray(picture[:, ::-1])]


def _corners(picture: RgbImage) -> list[RgbImage]:
    height, width = (round(side * PART) for side in picture.shape[:2])
    sides = (
        (rows, columns)
        for rows in (slice(height), slice(-height, None))
        for columns in _ends(width)
    )
    return [np.ascontiguousarray(picture[rows, columns]) for rows, columns in sides]


def _ends(length: int) -> tuple[slice, slice]:
    return slice(length), slice(-length, None)
