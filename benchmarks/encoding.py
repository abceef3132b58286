"""Masks and cut-outs as files: ours against the seeds' way, in seconds and in bytes, mask by mask in turn."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks import seeds_way
from benchmarks.options import Options
from benchmarks.pictures import FIRST_SEED
from benchmarks.tables import Row, row_of
from seg_pipeline.cutouts import cut_out
from seg_pipeline.demo.scenes import make_scene
from seg_pipeline.domain import Mask, RgbImage
from seg_pipeline.masks import encode_mask_png

WIDTH, HEIGHT = 1920, 1080
Encode = Callable[[RgbImage, Mask], bytes]


@dataclass(frozen=True)
class Ratio:
    """Our seconds over theirs for one mask, and the bytes of both."""

    seconds: float
    our_bytes: int
    their_bytes: int


def measure(options: Options) -> list[Row]:
    """Ratios over the masks of generated scenes of 1920x1080."""
    masks = [pair for index in range(options.scaled(12, 2)) for pair in _masks_of_scene(FIRST_SEED + index)]
    pngs = _ratios(lambda _, mask: encode_mask_png(mask), lambda _, mask: seeds_way.mask_png(mask.full()), masks)
    crops = _ratios(cut_out, lambda image, mask: seeds_way.cut_out(image, mask.full()), masks)
    return [*_rows("a mask's PNG", pngs), *_rows("a cut-out's WEBP", crops)]


def _rows(name: str, ratios: list[Ratio]) -> list[Row]:
    sizes = [ratio.our_bytes / ratio.their_bytes for ratio in ratios]
    together = sum(ratio.our_bytes for ratio in ratios) / sum(ratio.their_bytes for ratio in ratios)
    return [
        row_of(f"{name}: seconds over the seeds'", [ratio.seconds for ratio in ratios], target="1"),
        row_of(f"{name}: bytes over the seeds'", sizes, note=f"of all together {together:.2f}", target="1"),
    ]


def _masks_of_scene(seed: int) -> list[tuple[RgbImage, Mask]]:
    scene = make_scene(seed, width=WIDTH, height=HEIGHT)
    masks = (Mask.from_full(np.ascontiguousarray(thing.mask, np.bool_)) for thing in scene.objects)
    return [(scene.image, mask) for mask in masks if mask]


def _ratios(ours: Encode, theirs: Encode, masks: list[tuple[RgbImage, Mask]]) -> list[Ratio]:
    ours(*masks[0]), theirs(*masks[0])
    return [_ratio(ours, theirs, image, mask) for image, mask in masks]


def _ratio(ours: Encode, theirs: Encode, image: RgbImage, mask: Mask) -> Ratio:
    our_seconds, our_bytes = _timed(ours, image, mask)
    their_seconds, their_bytes = _timed(theirs, image, mask)
    return Ratio(our_seconds / their_seconds, our_bytes, their_bytes)


def _timed(encode: Encode, image: RgbImage, mask: Mask) -> tuple[float, int]:
    """The least seconds of three, and the bytes."""
    seconds, data = [], b""
    for _ in range(3):
        begin = time.perf_counter()
        data = encode(image, mask)
        seconds.append(time.perf_counter() - begin)
    return min(seconds), len(data)
