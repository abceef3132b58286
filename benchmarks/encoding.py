"""Masks, cut-outs and originals as files: ours against the replaced services' way, in seconds and
in bytes, one by one in turn."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import replaced_way
from benchmarks.options import Options
from benchmarks.pictures import FIRST_SEED
from benchmarks.tables import Row, row_of
from seg_pipeline.demo.scenes import make_scene
from seg_pipeline.domain import Mask, RgbImage
from seg_pipeline.imaging.cutouts import cut_out
from seg_pipeline.imaging.images import encode_original
from seg_pipeline.imaging.masks import encode_mask_png
from seg_pipeline.segmenters.parity.pictures import parity_pictures

WIDTH, HEIGHT = 1920, 1080
Encode = Callable[..., bytes]


@dataclass(frozen=True)
class Ratio:
    """Our seconds over theirs for one mask, and the bytes of both."""

    seconds: float
    our_bytes: int
    their_bytes: int


def measure(options: Options) -> list[Row]:
    """Ratios over the masks of generated scenes of 1920x1080, and over pictures of several
    kinds."""
    masks = [
        pair
        for index in range(options.scaled(12, 2))
        for pair in _masks_of_scene(FIRST_SEED + index)
    ]
    pictures = [(picture,) for group in parity_pictures("yolov8n-seg") for picture in group]
    pngs = _ratios(
        lambda _, mask: encode_mask_png(mask),
        lambda _, mask: replaced_way.mask_png(mask.full()),
        masks,
    )
    crops = _ratios(cut_out, lambda image, mask: replaced_way.cut_out(image, mask.full()), masks)
    originals = _ratios(encode_original, replaced_way.original, pictures)
    return [
        *_rows("a mask's PNG", pngs),
        *_rows("a cut-out's WEBP", crops),
        *_rows("an original's WEBP", originals),
    ]


def _rows(name: str, ratios: list[Ratio]) -> list[Row]:
    sizes = [ratio.our_bytes / ratio.their_bytes for ratio in ratios]
    together = sum(ratio.our_bytes for ratio in ratios) / sum(ratio.their_bytes for ratio in ratios)
    return [
        row_of(
            f"{name}: seconds over the replaced services'",
            [ratio.seconds for ratio in ratios],
            target="1",
        ),
        row_of(
            f"{name}: bytes over the replaced services'",
            sizes,
            note=f"of all together {together:.2f}",
            target="1",
        ),
    ]


def _masks_of_scene(seed: int) -> list[tuple[RgbImage, Mask]]:
    scene = make_scene(seed, width=WIDTH, height=HEIGHT)
    masks = (Mask.from_full(np.ascontiguousarray(thing.mask, np.bool_)) for thing in scene.objects)
    return [(scene.image, mask) for mask in masks if mask]


def _ratios(ours: Encode, theirs: Encode, asked: Sequence[tuple[Any, ...]]) -> list[Ratio]:
    ours(*asked[0]), theirs(*asked[0])
    return [_ratio(ours, theirs, each) for each in asked]


def _ratio(ours: Encode, theirs: Encode, asked: tuple[Any, ...]) -> Ratio:
    our_seconds, our_bytes = _timed(ours, asked)
    their_seconds, their_bytes = _timed(theirs, asked)
    return Ratio(our_seconds / their_seconds, our_bytes, their_bytes)


def _timed(encode: Encode, asked: tuple[Any, ...]) -> tuple[float, int]:
    """The least seconds of three, and the bytes."""
    seconds, data = [], b""
    for _ in range(3):
        begin = time.perf_counter()
        data = encode(*asked)
        seconds.append(time.perf_counter() - begin)
    return min(seconds), len(data)
