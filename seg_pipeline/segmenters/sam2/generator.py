"""Automatic masks as upstream's `SAM2AutomaticMaskGenerator` makes them, with less work.

A mask whose predicted IoU is too low is never computed. The others are measured at the picture's
size without being enlarged. Only those that survive the non-maximum suppression are enlarged,
inside their boxes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seg_pipeline.domain import BoolMask, Box, RgbImage
from seg_pipeline.model_parameters import Sam2Parameters
from seg_pipeline.segmenters.core_pool import Lanes
from seg_pipeline.segmenters.devices import give_memory_back, is_out_of_memory
from seg_pipeline.segmenters.mask_budget import MASK_BYTES, surest_that_fit
from seg_pipeline.segmenters.progress import PointsDone
from seg_pipeline.segmenters.sam2.decoder import FastMaskDecoder, ImageCache
from seg_pipeline.segmenters.sam2.precision import computing_in
from seg_pipeline.segmenters.sam2.sparse_masks import FEWEST_POSITIONS, MaskSampler, Thresholds
from seg_pipeline.segmenters.sam2.upsampling import Upsampling

MASKS_AT_ONCE = 32
"""Small masks that are measured at once."""

POSITIONS_PER_LANE = 32768
"""Positions of the picture, times points, that a core takes through all steps at once.

It does not depend on the number of points in a call. The output of one step should still be in the
processor's cache for the next.
"""


@dataclass(frozen=True)
class GeneratedMask:
    """One automatic mask: its pixels inside `box` in the picture, and both scores.

    It may be empty.
    """

    box: Box
    bits: BoolMask
    predicted_iou: float
    stability_score: float


@dataclass
class Candidates:
    """The masks of one crop that passed the filters so far.

    Boxes are xyxy in the crop, the last pixel included.
    """

    predicted_iou: Tensor  # (m,) float32
    stability: Tensor  # (m,) float32
    boxes: Tensor  # (m, 4) int64
    # The small logits that the box needs, and their corner (y, x).
    windows: list[tuple[Tensor, tuple[int, int]]]

    def take(self, index: Tensor) -> "Candidates":
        """The candidates at an index, in its order."""
        windows = [self.windows[i] for i in index.tolist()]
        return Candidates(
            self.predicted_iou[index], self.stability[index], self.boxes[index], windows
        )

    @classmethod
    def together(cls, parts: Sequence["Candidates"]) -> "Candidates":
        """All the candidates, in order."""
        tensors = [
            torch.cat([getattr(part, name) for part in parts])
            for name in ("predicted_iou", "stability", "boxes")
        ]
        return cls(
            tensors[0],
            tensors[1],
            tensors[2],
            [window for part in parts for window in part.windows],
        )


@dataclass(frozen=True)
class Crop:
    """A part of the picture that went through the network alone, and its remaining masks."""

    xyxy: list[int]
    upsampling: Upsampling
    candidates: Candidates


@dataclass(frozen=True)
class Prepared:
    """A crop that has been through the encoder, and what computes and measures its masks."""

    cache: ImageCache
    upsampling: Upsampling
    sampler: MaskSampler | None


class PointBatches:
    """How many points go through the network at once. The number falls when memory runs out."""

    def __init__(self) -> None:
        self.most: int | None = None
        self.halvings = 0

    def size(self, requested: int) -> int:
        """The requested number, or the one that turned out to fit."""
        return requested if self.most is None else min(requested, self.most)

    def halve_or_raise(self, size: int, error: Exception) -> None:
        """Halves the number if `size` points were too many for memory; else raises the error."""
        if size <= 1 or not is_out_of_memory(error):
            raise error
        self.most = min(size // 2, self.size(size))  # other lanes may know better
        self.halvings += 1
        give_memory_back()


class AutomaticMasks:
    """Automatic masks by the model of upstream's predictor, with encoder and decoder in `dtype`.

    `sampled` computes masks only where they are in doubt (see `sparse_masks.py`). It has no effect
    on a network with so few positions that it gains nothing.
    """

    def __init__(
        self,
        predictor: Any,
        batches: PointBatches,
        dtype: torch.dtype = torch.float32,
        sampled: bool = False,
    ) -> None:
        self._predictor = predictor
        self._batches = batches
        self._dtype = dtype
        self._decoder = FastMaskDecoder(predictor.model, dtype)
        self.precision = "fp32" if dtype == torch.float32 else "bf16"
        self.sampled = sampled and self._decoder.positions >= FEWEST_POSITIONS
        self._lanes = Lanes(predictor.device)
        self._points: PointsDone | None = None

    def generate(self, image: RgbImage, parameters: Sam2Parameters) -> list[GeneratedMask]:
        """Upstream's `generate`: the masks in its order."""
        parts = crop_grids(image, parameters)
        self._points = PointsDone(image, sum(len(grid) for _, grid in parts))
        crops = [self._crop(image, box, grid, parameters) for box, grid in parts]
        return [
            _enlarge(crops[which], index, parameters)
            for which, index in _that_fit(crops, _across_crops(crops, parameters))
        ]

    def _crop(
        self,
        image: RgbImage,
        xyxy: list[int],
        grid: NDArray[np.float64],
        parameters: Sam2Parameters,
    ) -> Crop:
        """Upstream's `_process_crop`: the candidates, best first, without near duplicates."""
        x0, y0, x1, y1 = xyxy
        prepared = self._prepare(image[y0:y1, x0:x1], parameters)
        points = torch.as_tensor(
            grid * (x1 - x0, y1 - y0), dtype=torch.float32, device=self._predictor.device
        )
        coordinates = self._predictor._transforms.transform_coords(
            points, normalize=True, orig_hw=(y1 - y0, x1 - x0)
        )

        def decode(part: Tensor) -> Candidates:
            batches = self._decode(prepared, part, parameters)
            return Candidates.together([_away_from_edges(batch, xyxy, image) for batch in batches])

        candidates = Candidates.together(self._lanes.map(decode, self._parts(coordinates)))
        keep = _suppress(candidates.boxes, candidates.predicted_iou, parameters.box_nms_thresh)
        return Crop(xyxy, prepared.upsampling, candidates.take(keep))

    def _prepare(self, crop: RgbImage, parameters: Sam2Parameters) -> Prepared:
        """Runs the encoder on the crop, and prepares what all of its points need."""
        cache, (height, width) = self._cache(crop), crop.shape[:2]
        upsampling = Upsampling(
            self._predictor.model.image_size // 4, height, width, self._predictor.device
        )
        sampler = (
            MaskSampler(self._decoder, cache, _thresholds(parameters)) if self.sampled else None
        )
        return Prepared(cache, upsampling, sampler)

    def _cache(self, crop: RgbImage) -> ImageCache:
        """Runs the encoder on the crop, and caches what the decoder computes for all points."""
        with computing_in(self._dtype, self._predictor.device):
            self._predictor.set_image(np.require(crop, requirements=["C", "W"]))
        features = self._predictor._features
        self._predictor.reset_predictor()
        finest, fine = features["high_res_feats"]
        return self._decoder.cache(features["image_embed"], fine, finest)

    def _parts(self, coordinates: Tensor) -> Sequence[Tensor]:
        """The points that a lane takes at once: few enough for its cache, two parts or more a lane.

        A GPU takes all at once.
        """
        if coordinates.device.type != "cpu":
            return [coordinates]
        lanes = self._lanes.count()
        even = ceil(len(coordinates) / (2 * lanes)) if lanes > 1 else len(coordinates)
        return coordinates.split(max(min(POSITIONS_PER_LANE // self._decoder.positions, even), 1))

    def _decode(
        self, prepared: Prepared, coordinates: Tensor, parameters: Sam2Parameters
    ) -> Iterator[Candidates]:
        """The candidates of some points, batch by batch.

        A batch that does not fit into memory is halved.
        """
        start = 0
        while start < len(coordinates):
            size = self._batches.size(parameters.points_per_batch)
            try:
                candidates = self._batch(prepared, coordinates[start : start + size], parameters)
            except Exception as error:
                self._batches.halve_or_raise(min(size, len(coordinates) - start), error)
                continue
            yield candidates
            if self._points:
                self._points.advance(min(size, len(coordinates) - start))
            start += size

    def _batch(
        self, prepared: Prepared, coordinates: Tensor, parameters: Sam2Parameters
    ) -> Candidates:
        """Upstream's `_process_batch` up to the boxes."""
        attended = self._decoder.attend(prepared.cache, coordinates, parameters.multimask_output)
        predicted = self._decoder.predicted_iou(attended)
        wanted = (
            predicted > parameters.pred_iou_thresh
            if parameters.pred_iou_thresh > 0
            else torch.ones_like(predicted).bool()
        )
        if prepared.sampler is None:
            logits = self._decoder.masks(prepared.cache, attended, wanted)
        else:
            logits, wanted = prepared.sampler.masks(
                attended, wanted, coordinates / self._predictor.model.image_size
            )
        if not logits:
            return _none(predicted.device)
        parts = zip(
            torch.cat(logits).split(MASKS_AT_ONCE),
            predicted[wanted].split(MASKS_AT_ONCE),
            strict=True,
        )
        return Candidates.together(
            [_stable(*part, prepared.upsampling, parameters) for part in parts]
        )


def crop_grids(
    image: RgbImage, parameters: Sam2Parameters
) -> list[tuple[list[int], NDArray[np.float64]]]:
    """The crops of a picture as upstream makes them, xyxy, each with its points `(p, 2)` in it.

    Points are shares of the crop's sides.
    """
    from sam2.utils.amg import build_all_layer_point_grids, generate_crop_boxes

    grids = build_all_layer_point_grids(
        parameters.points_per_side,
        parameters.crop_n_layers,
        parameters.crop_n_points_downscale_factor,
    )
    boxes, layers = generate_crop_boxes(
        image.shape[:2], parameters.crop_n_layers, parameters.crop_overlap_ratio
    )
    return [(box, grids[layer]) for box, layer in zip(boxes, layers, strict=True)]


def _stable(
    logits: Tensor, predicted_iou: Tensor, upsampling: Upsampling, parameters: Sam2Parameters
) -> Candidates:
    """The masks of `(m, small, small)` that hardly change with the threshold.

    Upstream: `calculate_stability_score`.
    """
    thresholds = _thresholds(parameters)
    if thresholds.least_stability > 0:
        too_low = (
            upsampling.most_stable(logits, thresholds.low, thresholds.high)
            < thresholds.least_stability
        )
        logits, predicted_iou = logits[~too_low], predicted_iou[~too_low]
    measures = upsampling.measure(
        logits, (thresholds.low, parameters.mask_threshold, thresholds.high)
    )
    stability = measures.counts[:, 2] / measures.counts[:, 0]
    keep = torch.arange(len(logits), device=logits.device)
    if thresholds.least_stability > 0:
        keep = keep[stability >= thresholds.least_stability]
    boxes = measures.boxes[keep]
    windows = []
    for index, box in zip(keep.tolist(), boxes.tolist(), strict=True):
        rows, columns = upsampling.window(_box(box))
        windows.append((logits[index, rows, columns].clone(), (rows.start, columns.start)))
    return Candidates(predicted_iou[keep], stability[keep], boxes, windows)


def _thresholds(parameters: Sam2Parameters) -> Thresholds:
    middle, offset = parameters.mask_threshold, parameters.stability_score_offset
    return Thresholds(middle - offset, middle + offset, parameters.stability_score_thresh)


def _none(device: Any) -> Candidates:
    scores = torch.zeros(0, device=device)
    return Candidates(scores, scores, torch.zeros(0, 4, dtype=torch.long, device=device), [])


def _box(xyxy: Sequence[int], offset_xy: tuple[int, int] = (0, 0)) -> Box:
    """The Box of an xyxy whose last pixel is included."""
    x0, y0, x1, y1 = xyxy
    return Box(x0 + offset_xy[0], y0 + offset_xy[1], x1 - x0 + 1, y1 - y0 + 1)


def _away_from_edges(candidates: Candidates, xyxy: list[int], image: RgbImage) -> Candidates:
    """The candidates that do not end at the crop's edge, unless the picture ends there too."""
    from sam2.utils.amg import is_box_near_crop_edge

    whole = [0, 0, image.shape[1], image.shape[0]]
    return candidates.take(
        torch.nonzero(~is_box_near_crop_edge(candidates.boxes, xyxy, whole)).flatten()
    )


def _suppress(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """The index of the boxes to keep, best first, by the function that upstream calls."""
    from torchvision.ops.boxes import batched_nms

    keep: Tensor = batched_nms(boxes.float(), scores, torch.zeros_like(boxes[:, 0]), iou_threshold)
    return keep


def _across_crops(crops: list[Crop], parameters: Sam2Parameters) -> list[tuple[int, int]]:
    """The crop and index of each remaining candidate.

    Of duplicates, those of smaller crops stay. Upstream: `_generate_masks`.
    """
    from torchvision.ops.boxes import box_area

    every = [
        (which, index)
        for which, crop in enumerate(crops)
        for index in range(len(crop.candidates.windows))
    ]
    if len(crops) == 1:
        return every
    device = crops[0].candidates.boxes.device
    frames = torch.tensor([crops[which].xyxy for which, _ in every], device=device).reshape(-1, 4)
    boxes = torch.cat(
        [crop.candidates.boxes + torch.tensor(crop.xyxy[:2] * 2, device=device) for crop in crops]
    )
    return [
        every[i]
        for i in _suppress(boxes, 1 / box_area(frames), parameters.crop_nms_thresh).tolist()
    ]


def _that_fit(crops: list[Crop], left: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The best candidates that fit into `MASK_BYTES`, in the given order."""
    boxes = [_box(crops[which].candidates.boxes[index].tolist()) for which, index in left]
    scores = [float(crops[which].candidates.predicted_iou[index]) for which, index in left]
    fitting = surest_that_fit(scores, [box.width * box.height for box in boxes], MASK_BYTES)
    return [each for index, each in enumerate(left) if index in fitting]


def _enlarge(crop: Crop, index: int, parameters: Sam2Parameters) -> GeneratedMask:
    """One of a crop's candidates in pixels of the picture."""
    candidates = crop.candidates
    xyxy = candidates.boxes[index].tolist()
    logits, corner = candidates.windows[index]
    bits = crop.upsampling.mask(logits, corner, _box(xyxy), parameters.mask_threshold)
    box = _box(xyxy, (crop.xyxy[0], crop.xyxy[1]))
    return GeneratedMask(
        box, bits, float(candidates.predicted_iou[index]), float(candidates.stability[index])
    )
