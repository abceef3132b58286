"""YOLO-seg through ultralytics: labels, confidences and masks at full resolution.

Only the network, its non-maximum suppression and its file format are ultralytics'. Its `predict` is
not used. A picture's answer there depends on the other shapes in the batch. It also sets torch's
threads for the whole process, prints, writes below the current folder, and upsamples every mask
over the whole picture.
"""

import atexit
import logging
import os
import shutil
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from seg_pipeline.domain import Mask, Parameters, RgbImage, Segment
from seg_pipeline.errors import ModelError
from seg_pipeline.segmenters import Notes
from seg_pipeline.segmenters.devices import (
    give_memory_back,
    is_out_of_memory,
    loading_errors,
    pick_device,
    running_errors,
)
from seg_pipeline.segmenters.weights.digest import weights_sha256
from seg_pipeline.segmenters.yolo.networks import Network, PlainNetwork, fast_network
from seg_pipeline.settings import InferenceMode

PROTO_STRIDE = 4
"""Mask prototypes have a quarter of the network's input resolution."""

Positions = NDArray[np.floating[Any]]

NMS_IOU = 0.7
MAX_DETECTIONS = 300
PADDING_GREY = 114

CPU_BATCH = 4
CUDA_BATCH = 16
"""Pictures that go through the network at once in `turbo`.

More are no faster and take more memory.
"""

logger = logging.getLogger(__name__)

_importing = threading.Lock()


class YoloSegmenter:
    """A loaded YOLO-seg checkpoint. Only data and known classes are loaded from it.

    `exact` is fp32, a picture at a time. `turbo` is the fastest form of the network that the
    machine has (`networks.py`), with pictures of one shape together.
    """

    def __init__(
        self,
        name: str,
        weights_path: Path,
        device: str = "auto",
        confidence: float = 0.25,
        mode: InferenceMode = "exact",
    ) -> None:
        self.name = name
        self.device = pick_device(device)
        self.weights_sha256 = weights_sha256(weights_path)
        self._confidence = confidence
        self._lock = threading.Lock()
        import_ultralytics()
        model = _load_model(weights_path, self.device)
        self._labels: dict[int, str] = dict(model.names)
        self._stride = max(int(model.stride.max()), 32)
        self._input_size = _input_size(model, self._stride)
        self._end2end = bool(getattr(model, "end2end", False))
        self._batch_size = 1
        self._network: Network | None = PlainNetwork(model)
        if mode == "turbo":
            self._batch_size = CUDA_BATCH if self.device.startswith("cuda") else CPU_BATCH
            with loading_errors(weights_path, "YOLO-seg", self.device):
                self._network = fast_network(model, self.device, self.weights_sha256)
        self.notes: Notes = {"inference_mode": mode, "batch_size": self._batch_size}
        self.notes |= {"precision": self._network.precision, "engine": self._network.engine}

    def segment(
        self, images: Sequence[RgbImage], parameters: Parameters | None = None
    ) -> list[list[Segment]]:
        """The segments of each picture, best first. Of the parameters only `confidence` counts.

        In `exact` a picture's answer is bit for bit the same whatever else is in the call. In
        `turbo` it is the same up to the rounding of its precision.
        """
        confidence = float((parameters or {}).get("confidence", self._confidence))
        with self._lock, running_errors(self.name), torch.inference_mode():
            return self._segment_all(images, confidence)

    def close(self) -> None:
        """Drops the model and frees its memory, on the device and in the system."""
        with self._lock:
            self._network = None
        give_memory_back()

    def _segment_all(self, images: Sequence[RgbImage], confidence: float) -> list[list[Segment]]:
        fitted = [
            (Letterbox.of(image.shape[1::-1], self._input_size, self._stride), image)
            for image in images
        ]
        found: dict[int, list[Segment]] = {}
        for alike in _with_one_shape(fitted):
            waiting = alike
            while waiting:
                group = waiting[: self._batch_size]
                answers = self._try_group([fitted[index] for index in group], confidence)
                if answers is not None:
                    found.update(zip(group, answers, strict=True))
                    waiting = waiting[len(group) :]
        return [found[index] for index in range(len(images))]

    def _try_group(
        self, group: Sequence["Fitted"], confidence: float
    ) -> list[list[Segment]] | None:
        """The segments of these pictures; None if memory ran out, and fewer must be tried."""
        try:
            return self._segment_group(group, confidence)
        except Exception as error:
            if len(group) == 1 or not is_out_of_memory(error):
                raise
        give_memory_back()  # now that the error, and all that it held, is gone
        self._halve(len(group))
        return None

    def _halve(self, failed: int) -> None:
        self._batch_size = failed // 2
        halvings = int(self.notes.get("halved_after_out_of_memory", 0)) + 1
        self.notes |= {"batch_size": self._batch_size, "halved_after_out_of_memory": halvings}
        logger.warning(
            "no memory for %s pictures at once in %s: %s from now on",
            failed,
            self.name,
            self._batch_size,
        )

    def _segment_group(self, group: Sequence["Fitted"], confidence: float) -> list[list[Segment]]:
        predictions, prototypes = self._run(
            np.stack([letterbox.apply(image) for letterbox, image in group])
        )
        detections = [
            self._suppress(predictions[index : index + 1], confidence)
            for index in range(len(group))
        ]
        return [
            self._decode(found, each, letterbox)
            for found, each, (letterbox, _) in zip(detections, prototypes, group, strict=True)
        ]

    def _run(self, pixels: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
        """Predictions and prototypes of `(n, h, w, 3)` pixels."""
        network: Any = self._network
        return network(
            torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float().div_(255)
        )

    def _suppress(self, predictions: torch.Tensor, confidence: float) -> torch.Tensor:
        """Detections `(n, 6 + c)` of one picture.

        They are xyxy in the network's input, confidence, class and c coefficients. Each call takes
        one picture: of several, ultralytics drops those that exceed its time limit.
        """
        from ultralytics.utils.nms import non_max_suppression

        (detections,) = non_max_suppression(
            predictions,
            conf_thres=confidence,
            iou_thres=NMS_IOU,
            max_det=MAX_DETECTIONS,
            nc=len(self._labels),
            end2end=self._end2end,
        )
        return detections

    def _decode(
        self, detections: torch.Tensor, prototypes: torch.Tensor, letterbox: "Letterbox"
    ) -> list[Segment]:
        scores = detections[:, 4:6].cpu().numpy()
        boxes = letterbox.boxes_to_picture(detections[:, :4].cpu().numpy())
        logits = _mask_logits(detections[:, 6:], prototypes)
        masks = [decode_mask(each, box, letterbox) for each, box in zip(logits, boxes, strict=True)]
        return [
            Segment(mask, label=self._labels[int(label)], confidence=float(score))
            for mask, (score, label) in zip(masks, scores, strict=True)
            if mask is not None
        ]


@dataclass(frozen=True)
class Letterbox:
    """How a picture is fitted into the network's input: scaled to `inner_wh`, grey around.

    Its corner is at `left`, `top`. The geometry is that of ultralytics' `LetterBox(auto=True)`: the
    smallest rectangle of whole strides.
    """

    picture_wh: tuple[int, int]
    inner_wh: tuple[int, int]
    outer_wh: tuple[int, int]
    left: int
    top: int

    @classmethod
    def of(cls, picture_wh: tuple[int, int], size: int, stride: int) -> "Letterbox":
        """The letterbox whose longer inner side is `size`."""
        scale = size / max(picture_wh)
        inner_width, inner_height = (max(round(side * scale), 1) for side in picture_wh)
        pad_x, pad_y = (size - inner_width) % stride, (size - inner_height) % stride
        return cls(
            picture_wh,
            (inner_width, inner_height),
            (inner_width + pad_x, inner_height + pad_y),
            left=round(pad_x / 2 - 0.1),
            top=round(pad_y / 2 - 0.1),
        )

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Input pixels for one pixel of the picture."""
        return self.inner_wh[0] / self.picture_wh[0], self.inner_wh[1] / self.picture_wh[1]

    def apply(self, image: RgbImage) -> RgbImage:
        """The picture as the network sees it, `(outer height, outer width, 3) uint8`."""
        width, height = self.inner_wh
        outer = np.full((self.outer_wh[1], self.outer_wh[0], 3), PADDING_GREY, dtype=np.uint8)
        inner = image if image.shape[:2] == (height, width) else cv2.resize(image, self.inner_wh)
        outer[self.top : self.top + height, self.left : self.left + width] = inner
        return outer

    def boxes_to_picture(self, xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes `(n, 4)` of the network's input in pixels of the picture, clipped to it."""
        corner = np.array([self.left, self.top] * 2, dtype=np.float32)
        scale = np.array(self.scale_xy * 2, dtype=np.float32)
        return np.clip((xyxy - corner) / scale, 0, np.array(self.picture_wh * 2, dtype=np.float32))

    def prototype_positions(
        self, columns: Positions, rows: Positions
    ) -> tuple[Positions, Positions]:
        """Where these positions of the picture lie on the grid of the prototypes.

        They stay within the centres of the outermost prototypes inside the picture. Those in the
        grey say that nothing is there, and would cut a rim off every object at the picture's edge.
        """
        return (
            self._along(columns, self.picture_wh[0], self.inner_wh[0], self.left),
            self._along(rows, self.picture_wh[1], self.inner_wh[1], self.top),
        )

    @staticmethod
    def _along(centres: Positions, picture_side: int, inner_side: int, start: int) -> Positions:
        inset = min(PROTO_STRIDE / 2, inner_side / 2)
        inside = np.clip(centres * inner_side / picture_side, inset, inner_side - inset)
        return (inside + start) / PROTO_STRIDE - 0.5


Fitted = tuple[Letterbox, RgbImage]
"""A picture, and how it is fitted into the network's input."""


def _with_one_shape(fitted: Sequence[Fitted]) -> list[list[int]]:
    """Groups of positions whose pictures have one shape of the network's input."""
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, (letterbox, _) in enumerate(fitted):
        alike[letterbox.outer_wh].append(index)
    return list(alike.values())


def decode_mask(
    logits: NDArray[np.float32], xyxy: NDArray[np.float32], letterbox: Letterbox
) -> Mask | None:
    """The mask of one detection at full resolution; None if no pixel in its box is set.

    `logits` is `(h, w)` at the prototypes' resolution. It is interpolated (bilinear) at the centre
    of every pixel of the box, so the cost is the box's area and not the picture's.
    """
    x1, y1, x2, y2 = (int(side) for side in np.ceil(xyxy))
    if x1 >= x2 or y1 >= y2:
        return None
    columns, rows = letterbox.prototype_positions(np.arange(x1, x2) + 0.5, np.arange(y1, y2) + 0.5)
    across = _interpolate_axis(logits, columns, axis=1)
    bits = np.empty((y2 - y1, x2 - x1), dtype=np.bool_)
    for strip in _strips(y2 - y1, x2 - x1):
        np.greater(_interpolate_axis(across, rows[strip], axis=0), 0, out=bits[strip])
    return Mask.from_window(bits, (x1, y1), letterbox.picture_wh)


def _strips(height: int, width: int) -> Iterator[slice]:
    """Groups of rows of some 64k pixels each: they stay in the cache, and need few large floats."""
    step = max(1, 2**16 // width)
    return (slice(start, start + step) for start in range(0, height, step))


def _interpolate_axis(values: NDArray[np.float32], at: Positions, axis: int) -> NDArray[np.float32]:
    """`values` sampled linearly along one axis at fractional positions, with the edge continued."""
    at = np.clip(at, 0, values.shape[axis] - 1)
    below = at.astype(np.intp)
    above = np.minimum(below + 1, values.shape[axis] - 1)
    weight = (at - below).astype(np.float32)
    weight = weight[:, None] if axis == 0 else weight[None, :]
    low, high = values.take(below, axis), values.take(above, axis)
    high -= low
    high *= weight
    high += low
    return high


def _mask_logits(coefficients: torch.Tensor, prototypes: torch.Tensor) -> NDArray[np.float32]:
    """Logits `(n, h, w)` of each detection at the prototypes' resolution."""
    channels, height, width = prototypes.shape
    logits = coefficients @ prototypes.float().view(channels, -1)
    return logits.view(-1, height, width).cpu().numpy()


def import_ultralytics(config_dir: Path | None = None) -> None:
    """Imports ultralytics without its side effects.

    It would ask the network, install packages, report usage, write settings into the home folder
    and take over torch's threads. Its settings and converted models go into `config_dir`, or into a
    folder that ends with the process.
    """
    with _importing:
        if "ultralytics.nn.tasks" in sys.modules:
            return
        wanted = {
            "YOLO_OFFLINE": "true",
            "YOLO_AUTOINSTALL": "false",
            "YOLO_VERBOSE": "false",
            "YOLO_CONFIG_DIR": str(config_dir or _folder_of_this_process()),
        }
        before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", *wanted)}
        threads = torch.get_num_threads()
        os.environ.update(wanted)
        try:
            import ultralytics.nn.tasks  # noqa: F401
        finally:
            torch.set_num_threads(threads)
            _restore_environment(before)


def _folder_of_this_process() -> Path:
    folder = tempfile.mkdtemp(prefix="ultralytics-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _restore_environment(before: dict[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _load_model(weights_path: Path, device: str) -> Any:
    """The fused network in fp32, ready for inference.

    Raises ModelError if the file is not one, or ModelOutOfMemory.
    """
    with loading_errors(weights_path, "YOLO-seg", device):
        checkpoint = _load_checkpoint(weights_path)
        model = (checkpoint.get("ema") or checkpoint["model"]).float()
        if "Segment" not in type(model.model[-1]).__name__:
            raise ModelError(
                f"{weights_path.name} finds boxes but no masks; name weights that end in -seg.pt."
            )
        model.args = checkpoint.get("train_args") or {}
        # A sixth faster on a CPU.
        layout = torch.channels_last if device == "cpu" else torch.contiguous_format
        return (
            model.requires_grad_(False).fuse(verbose=False).eval().to(device, memory_format=layout)
        )


def _load_checkpoint(weights_path: Path) -> dict[str, Any]:
    """The contents of the file, which is a pickle and could run any code.

    A file with more than data and ultralytics' own classes is refused.
    """
    from ultralytics.nn.tasks import torch_safe_load

    with TemporaryDirectory(prefix="seg-weights-") as folder:
        # Ultralytics drops a ' from a path, and takes what follows a ? for a query.
        link = Path(folder) / "weights.pt"
        link.symlink_to(weights_path.absolute())
        checkpoint, _ = torch_safe_load(link, safe_only=True)
    return dict(checkpoint)


def _input_size(model: Any, stride: int) -> int:
    """The longer side of the network's input: what it was trained with, in whole strides."""
    trained = model.args.get("imgsz", 640)
    size = max(trained) if isinstance(trained, list | tuple) else int(trained)
    return -(-size // stride) * stride
