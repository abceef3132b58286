"""Segments large pictures in overlapping tiles: memory depends on the tile, not on the picture.

The model also sees the whole picture once, reduced to a tile's size, and so finds objects larger
than a tile. That is sliced inference as in SAHI (Akyon et al. 2022), except for the merging, which
is in `tile_merging.py`.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

import numpy as np

from seg_pipeline.domain import Box, Mask, Parameters, RgbImage, Segment
from seg_pipeline.imaging.images import scaled_size
from seg_pipeline.imaging.tile_merging import TileView, merge
from seg_pipeline.prompts import has_prompts
from seg_pipeline.segmenters import Notes, Segmenter
from seg_pipeline.segmenters.mask_budget import MASK_BYTES, surest_that_fit
from seg_pipeline.segmenters.registry import load_segmenter
from seg_pipeline.settings import Settings

OVERLAP = 0.2
"""The least share of its side that a tile has in common with the next one.

Objects up to that size are whole in one of the tiles.
"""

TILES_PER_CALL = 4
"""The masks of these tiles come on top of `MASK_BYTES` until the call is over."""


def load_tiled_segmenter(name: str, settings: Settings) -> Segmenter:
    """The model of this name, with tiles above `tile_above_pixels`.

    Raises as `load_segmenter` does.
    """
    return TiledSegmenter(
        load_segmenter(name, settings), settings.tile_above_pixels, settings.tile_side
    )


class TiledSegmenter:
    """A segmenter that splits pictures of more than `above_pixels` into tiles of `tile_side`.

    With 0 it never does. All other pictures go to the model unchanged, together. `notes` are the
    model's, and the number of tiles in the last call.
    """

    def __init__(self, segmenter: Segmenter, above_pixels: int, tile_side: int) -> None:
        self.name = segmenter.name
        self.weights_sha256 = segmenter.weights_sha256
        self.device = segmenter.device
        self.notes = segmenter.notes
        self._segmenter = segmenter
        self._above_pixels = above_pixels
        self._tile_side = tile_side
        self._tiles = 0

    def segment(
        self, images: Sequence[RgbImage], parameters: Parameters | None = None
    ) -> list[list[Segment]]:
        """The segments of each picture.

        Those of a large one are in the order of `tile_merging.merge`. A prompt is asked of the
        whole picture.
        """
        self._tiles = 0
        if has_prompts(parameters):
            return self._whole(images, parameters)
        small = [image for image in images if not self._is_large(image)]
        answers = iter(self._segmenter.segment(small, parameters) if small else [])
        found = [
            self._segment_large(image, parameters) if self._is_large(image) else next(answers)
            for image in images
        ]
        tiles: Notes = {"tiles": self._tiles, "tile_side": self._tile_side} if self._tiles else {}
        self.notes = {**self._segmenter.notes, **tiles}
        return found

    def close(self) -> None:
        """Closes the model."""
        self._segmenter.close()

    def _whole(
        self, images: Sequence[RgbImage], parameters: Parameters | None
    ) -> list[list[Segment]]:
        found = self._segmenter.segment(images, parameters)
        self.notes = dict(self._segmenter.notes)
        return found

    def _is_large(self, image: RgbImage) -> bool:
        height, width = image.shape[:2]
        return 0 < self._above_pixels < height * width and max(height, width) > self._tile_side

    def _segment_large(self, image: RgbImage, parameters: Parameters | None) -> list[Segment]:
        (overview,) = self._segmenter.segment([_reduced(image, self._tile_side)], parameters)
        boxes = split((image.shape[1], image.shape[0]), self._tile_side)
        views: list[TileView] = []
        for start in range(0, len(boxes), TILES_PER_CALL):
            views = surest(
                views + self._views(image, boxes[start : start + TILES_PER_CALL], parameters),
                MASK_BYTES,
            )
        self._tiles += len(boxes)
        return merge(views, overview)

    def _views(
        self, image: RgbImage, boxes: Sequence[Box], parameters: Parameters | None
    ) -> list[TileView]:
        tiles = [np.ascontiguousarray(image[box.slices]) for box in boxes]
        answers = self._segmenter.segment(tiles, parameters)
        picture_wh = (image.shape[1], image.shape[0])
        return [
            TileView(box, [_placed(segment, box, picture_wh) for segment in segments])
            for box, segments in zip(boxes, answers, strict=True)
        ]


def split(resolution_wh: tuple[int, int], side: int, overlap: float = OVERLAP) -> list[Box]:
    """Tiles of `side` by `side` that cover the picture, in reading order and evenly spread.

    Neighbours share at least `overlap` of their side. Where the picture is shorter than `side`, so
    are the tiles.
    """
    width, height = resolution_wh
    return [
        Box(x, y, min(side, width), min(side, height))
        for y in _starts(height, side, overlap)
        for x in _starts(width, side, overlap)
    ]


def surest(views: Sequence[TileView], mask_bytes: int) -> list[TileView]:
    """The views with their best scored segments, as many as fit into `mask_bytes` of masks."""
    segments = [segment for view in views for segment in view.segments]
    sizes = [segment.mask.bits.nbytes for segment in segments]
    kept = {
        id(segments[index])
        for index in surest_that_fit([*map(_score, segments)], sizes, mask_bytes)
    }
    return [
        TileView(view.box, [segment for segment in view.segments if id(segment) in kept])
        for view in views
    ]


def _score(segment: Segment) -> float:
    return segment.confidence or segment.predicted_iou or 0.0


def _starts(length: int, side: int, overlap: float) -> list[int]:
    if length <= side:
        return [0]
    steps = ceil((length - side) / max(1, side - ceil(side * overlap)))
    return [round(step * (length - side) / steps) for step in range(steps + 1)]


def _reduced(image: RgbImage, longer_side: int) -> RgbImage:
    import cv2

    size = scaled_size((image.shape[1], image.shape[0]), longer_side)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _placed(segment: Segment, tile: Box, picture_wh: tuple[int, int]) -> Segment:
    """A tile's segment in the coordinates of the picture; the bits are shared."""
    box = segment.mask.box
    there = Box(tile.x + box.x, tile.y + box.y, box.width, box.height)
    return replace(segment, mask=Mask(picture_wh, there, segment.mask.bits))
