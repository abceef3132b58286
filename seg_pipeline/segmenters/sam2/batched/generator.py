"""Automatic masks as `sam2/generator.py` makes them, in steps that suit a GPU.

All of a picture's masks are made in a few batches of fixed size, and measured at once. What is
dropped is only marked, so that nothing waits for the device until the non-maximum suppression says
how many masks are left. Their pixels come to the host in one copy.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seg_pipeline.domain import BoolMask, Box, RgbImage
from seg_pipeline.model_parameters import Sam2Parameters
from seg_pipeline.segmenters.devices import give_memory_back, is_out_of_memory
from seg_pipeline.segmenters.mask_budget import MASK_BYTES, surest_that_fit
from seg_pipeline.segmenters.sam2.batched.measures import Ask, measure_for
from seg_pipeline.segmenters.sam2.batched.network import BatchedNetwork
from seg_pipeline.segmenters.sam2.batched.packing import Download, Windows, pack_for
from seg_pipeline.segmenters.sam2.batched.preprocessing import network_input, upload
from seg_pipeline.segmenters.sam2.batched.steps import Quickening, Step, on, place_on
from seg_pipeline.segmenters.sam2.decoder import ImageCache
from seg_pipeline.segmenters.sam2.generator import GeneratedMask, PointBatches, crop_grids

LOGIT_BYTES = 2**30
"""The most bytes that the small logits of masks take before they are thinned out.

That is 1,024 points of a published network in float32.
"""

SHARE_OF_FREE = 8
"""On a small card they take at most this part of what is free."""

EDGE_PIXELS = 20
"""So near to a crop's edge a box counts as ending there, as upstream has it."""


@dataclass(frozen=True)
class Candidates:
    """The masks of some points, in their order. Those that are not `valid` are dropped.

    Boxes are xyxy in the crop, the last pixel included.
    """

    logits: Tensor  # (m, s, s) in the network's dtype
    predicted_iou: Tensor  # (m,) float32
    stability: Tensor  # (m,) float32
    boxes: Tensor  # (m, 4) int32
    valid: Tensor  # (m,) bool

    def thinned(self) -> "Candidates":
        """Without the invalid ones. It waits for the device."""
        index = torch.nonzero(self.valid).flatten()
        return Candidates(*(each.index_select(0, index) for each in self._tensors()))

    @classmethod
    def together(cls, parts: Sequence["Candidates"]) -> "Candidates":
        """All the candidates, in order."""
        if len(parts) == 1:
            return parts[0]
        return cls(*map(torch.cat, zip(*(part._tensors() for part in parts), strict=True)))

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.logits, self.predicted_iou, self.stability, self.boxes, self.valid


@dataclass(frozen=True)
class Crop:
    """A part of the picture that went through the network alone, and its remaining masks.

    All but the logits are on the host.
    """

    xyxy: tuple[int, int, int, int]
    logits: Tensor  # (k, s, s)
    predicted_iou: list[float]
    stability: list[float]
    boxes: list[Box]  # in the crop

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        x0, y0, x1, y1 = self.xyxy
        return y1 - y0, x1 - x0


class BatchedMasks:
    """Automatic masks by the model of upstream's predictor, with encoder and decoder in `dtype`.

    `points` go through the decoder at once; the last batch is filled up. It is the same number
    whatever a job asks for, until memory runs out.
    """

    sampled = False

    def __init__(
        self,
        predictor: Any,
        batches: PointBatches,
        dtype: torch.dtype = torch.float32,
        points: int | None = None,
    ) -> None:
        self._transforms = predictor._transforms
        self._batches = batches
        self._network = BatchedNetwork(predictor, dtype, points)
        self._device = self._network.device
        self._encode = Step("encoder", self._network.encode)
        self._decode = Step("decoder", self._network.decode)
        self._quickening: Quickening | None = None
        with on(self._device):
            self._measure, self._pack = measure_for(self._device), pack_for(self._device)
            self._logit_bytes = _logit_bytes(self._device)
        self.precision = "fp32" if dtype == torch.float32 else "bf16"
        self.points = self._network.points

    def quicken(self, name: str, alone: AbstractContextManager[Any]) -> None:
        """Begins to make encoder and decoder quicker; `alone` is held while the model is used."""
        self._quickening = Quickening(name, place_on(self._device, alone), self._chain)

    def settle(self) -> None:
        """Waits until encoder and decoder are as quick as they get."""
        if self._quickening:
            self._quickening.settle()

    def stop(self) -> None:
        """Makes nothing quicker any more."""
        if self._quickening:
            self._quickening.stop()

    @property
    def forms(self) -> str:
        """Which forms of encoder and decoder answer."""
        made = f"{self._encode.name}: {self._encode.form}, {self._decode.name}: {self._decode.form}"
        under_way = self._quickening is not None and self._quickening.under_way
        return f"{made}, quicker ones under way" if under_way else made

    def generate(self, image: RgbImage, parameters: Sam2Parameters) -> list[GeneratedMask]:
        """Upstream's `generate`: the masks in its order."""
        with on(self._device):
            crops = [
                self._crop(image, tuple(box), grid, parameters)
                for box, grid in crop_grids(image, parameters)
            ]
            return self._to_host(
                crops, _that_fit(crops, _across_crops(crops, parameters)), parameters
            )

    def _chain(self, quickening: Quickening) -> None:
        pixels, coordinates = self._network.example()
        cache = quickening.quicken(self._encode, pixels)
        quickening.quicken(self._decode, cache, coordinates)

    def _crop(
        self,
        image: RgbImage,
        xyxy: tuple[int, ...],
        grid: NDArray[np.float64],
        parameters: Sam2Parameters,
    ) -> Crop:
        """Upstream's `_process_crop`: the masks, best first, without near duplicates."""
        x0, y0, x1, y1 = xyxy
        cut = image[y0:y1, x0:x1]
        cache = self._encode(network_input(cut, self._network.side, self._device))
        points = torch.as_tensor(grid * (x1 - x0, y1 - y0), dtype=torch.float32)
        coordinates = self._transforms.transform_coords(
            points, normalize=True, orig_hw=cut.shape[:2]
        )
        frame = Frame((x0, y0, x1, y1), (image.shape[1], image.shape[0]), parameters)
        groups = list(self._groups(cache, upload(coordinates.numpy(), self._device), frame))
        return _survivors(Candidates.together(groups), frame)

    def _groups(
        self, cache: ImageCache, coordinates: Tensor, frame: "Frame"
    ) -> Iterator[Candidates]:
        """The candidates, as many at once as memory holds."""
        start = 0
        while start < len(coordinates):
            size = self._batches.size(self.points)
            end = min(start + self._held(size), len(coordinates))
            try:
                candidates = self._group(cache, coordinates[start:end], size, frame)
            except Exception as error:
                self._hold_less(end - start, size, error)
                continue
            whole = start == 0 and end == len(coordinates)
            yield candidates if whole else candidates.thinned()
            start = end

    def _held(self, size: int) -> int:
        """Points whose masks are held at once: whole batches, at least one."""
        return max(self._logit_bytes // (self._point_bytes * size), 1) * size

    @property
    def _point_bytes(self) -> int:
        return 3 * self._network.mask_side**2 * self._network.dtype.itemsize

    def _hold_less(self, held: int, size: int, error: Exception) -> None:
        """After so many points were too much for memory, in batches of `size`; else it raises.

        It holds the masks of fewer batches. If it was one, that is halved, which costs its graph.
        """
        if held > size and is_out_of_memory(error):
            self._logit_bytes = held * self._point_bytes // 2
            give_memory_back()
        else:
            self._batches.halve_or_raise(min(size, held), error)

    def _group(
        self, cache: ImageCache, coordinates: Tensor, size: int, frame: "Frame"
    ) -> Candidates:
        """Upstream's `_process_batch` up to the boxes, for several batches."""
        logits, predicted = self._all_masks(cache, coordinates, size, frame.parameters)
        wanted = (
            predicted > frame.parameters.pred_iou_thresh
            if frame.parameters.pred_iou_thresh > 0
            else torch.ones_like(predicted, dtype=torch.bool)
        )
        measures = self._measure(Ask(logits, wanted, frame.size, frame.thresholds))
        stability = measures.counts[:, 2] / measures.counts[:, 0]
        if frame.parameters.stability_score_thresh > 0:
            wanted = wanted & (stability >= frame.parameters.stability_score_thresh)
        valid = wanted & frame.away_from_edges(measures.boxes)
        return Candidates(logits, predicted, stability, measures.boxes, valid)

    def _all_masks(
        self, cache: ImageCache, coordinates: Tensor, size: int, parameters: Sam2Parameters
    ) -> tuple[Tensor, Tensor]:
        """The logits `(m, s, s)` and the predicted IoU `(m,)` of all masks of some points.

        They are copied from each batch's results, which the next batch overwrites.
        """
        decode = self._decode if parameters.multimask_output else self._network.decode_single
        each, side = 3 if parameters.multimask_output else 1, self._network.mask_side
        masks = len(coordinates) * each
        logits = torch.empty(masks, side, side, dtype=self._network.dtype, device=self._device)
        predicted = torch.empty(masks, device=self._device)
        for start in range(0, len(coordinates), size):
            batch = coordinates[start : start + size]
            some_logits, some_predicted = decode(cache, _filled(batch, size))
            place, count = slice(start * each, (start + len(batch)) * each), len(batch) * each
            logits[place] = some_logits[:count]
            predicted[place] = some_predicted[:count]
        return logits, predicted

    def _to_host(
        self, crops: Sequence[Crop], left: Sequence[tuple[int, int]], parameters: Sam2Parameters
    ) -> list[GeneratedMask]:
        """The remaining masks in pixels of the picture, in their order."""
        by_crop = [[index for of, index in left if of == which] for which in range(len(crops))]
        downloads = [
            Download(_windows(crop, chosen, parameters.mask_threshold), self._pack)
            for crop, chosen in zip(crops, by_crop, strict=True)
        ]
        if self._device.type == "cuda":
            torch.cuda.current_stream().synchronize()
        bits = {
            (which, index): pixels
            for which, (chosen, download) in enumerate(zip(by_crop, downloads, strict=True))
            for index, pixels in zip(chosen, download.masks(), strict=True)
        }
        return [_generated(crops[of], index, bits[of, index]) for of, index in left]


@dataclass(frozen=True)
class Frame:
    """A crop of a picture, and the parameters."""

    xyxy: tuple[int, int, int, int]
    picture_wh: tuple[int, int]
    parameters: Sam2Parameters

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the crop."""
        x0, y0, x1, y1 = self.xyxy
        return y1 - y0, x1 - x0

    @property
    def thresholds(self) -> tuple[float, float, float]:
        """Of stability, of masks, and of stability again."""
        middle, offset = self.parameters.mask_threshold, self.parameters.stability_score_offset
        return middle - offset, middle, middle + offset

    def away_from_edges(self, boxes: Tensor) -> Tensor:
        """Upstream's `is_box_near_crop_edge`, the other way round, without a copy to the device."""
        x0, y0, _, _ = self.xyxy
        picture = 0, 0, *self.picture_wh
        away = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
        for place, (crop_edge, edge) in enumerate(zip(self.xyxy, picture, strict=True)):
            at = boxes[:, place] + (x0 if place % 2 == 0 else y0)
            near = ((at - crop_edge).abs() <= EDGE_PIXELS) & ((at - edge).abs() > EDGE_PIXELS)
            away = away & ~near
        return away


def _logit_bytes(device: torch.device) -> int:
    """The bytes that small logits may take on this device."""
    if device.type != "cuda":
        return LOGIT_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return min(LOGIT_BYTES, free // SHARE_OF_FREE)


def _filled(points: Tensor, size: int) -> Tensor:
    """The points `(p, 2)`, filled up to the fixed size with the first one."""
    if len(points) == size:
        return points
    return torch.cat([points, points[:1].expand(size - len(points), -1)])


def _survivors(candidates: Candidates, frame: Frame) -> Crop:
    """What the non-maximum suppression leaves, best first.

    An invalid box is a point, which overlaps nothing, with the least score. So the number of boxes
    is known before the device has come to them. This is the first wait.
    """
    from torchvision.ops import nms

    valid = candidates.valid
    scores = candidates.predicted_iou.masked_fill(~valid, -torch.inf)
    boxes = candidates.boxes.float() * valid[:, None]
    keep = nms(boxes, scores, frame.parameters.box_nms_thresh)
    facts = [candidates.predicted_iou, candidates.stability, *candidates.boxes.T, valid]
    facts = torch.stack([each[keep].double() for each in facts], 1).cpu().tolist()
    left = [fact for fact in facts if fact[-1]]
    return Crop(
        frame.xyxy,
        candidates.logits[keep[: len(left)]],
        [fact[0] for fact in left],
        [fact[1] for fact in left],
        [_box(*map(int, fact[2:6])) for fact in left],
    )


def _box(x0: int, y0: int, x1: int, y1: int) -> Box:
    return Box(x0, y0, x1 - x0 + 1, y1 - y0 + 1)


def _placed(box: Box, crop: Crop) -> Box:
    return Box(box.x + crop.xyxy[0], box.y + crop.xyxy[1], box.width, box.height)


def _across_crops(crops: Sequence[Crop], parameters: Sam2Parameters) -> list[tuple[int, int]]:
    """The crop and index of each remaining mask. Of duplicates, those of smaller crops stay.

    Upstream: `_generate_masks`.
    """
    from torchvision.ops import nms

    every = [(of, index) for of, crop in enumerate(crops) for index in range(len(crop.boxes))]
    if len(crops) == 1 or not every:
        return every
    placed = [_placed(crops[of].boxes[index], crops[of]) for of, index in every]
    boxes = [(box.x, box.y, box.x + box.width - 1, box.y + box.height - 1) for box in placed]
    areas = torch.tensor([crops[of].size[0] * crops[of].size[1] for of, _ in every])
    keep = nms(torch.tensor(boxes).float(), 1 / areas, parameters.crop_nms_thresh)
    return [every[index] for index in keep.tolist()]


def _that_fit(crops: Sequence[Crop], left: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The best masks that fit into `MASK_BYTES`, in the given order."""
    boxes = [crops[of].boxes[index] for of, index in left]
    scores = [crops[of].predicted_iou[index] for of, index in left]
    fitting = surest_that_fit(scores, [box.width * box.height for box in boxes], MASK_BYTES)
    return [each for place, each in enumerate(left) if place in fitting]


def _windows(crop: Crop, chosen: Sequence[int], threshold: float) -> Windows:
    boxes = [crop.boxes[index] for index in chosen]
    index = upload(np.array(chosen, dtype=np.int64), crop.logits.device)
    return Windows(crop.logits.index_select(0, index), boxes, crop.size, threshold)


def _generated(crop: Crop, index: int, bits: BoolMask) -> GeneratedMask:
    return GeneratedMask(
        _placed(crop.boxes[index], crop), bits, crop.predicted_iou[index], crop.stability[index]
    )
