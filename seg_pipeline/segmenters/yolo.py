"""YOLO-seg through ultralytics: labels, confidences and masks at full resolution.

Only the network, its non-maximum suppression and its file format are ultralytics'. Its `predict` is not used: it
gives a picture another answer when another shape stands beside it in the batch, sets torch's threads for the whole
process, prints, writes below the current folder, and upsamples every mask over the whole picture.
"""

import atexit
import inspect
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from seg_pipeline.domain import Mask, Parameters, RgbImage, Segment
from seg_pipeline.errors import ModelError
from seg_pipeline.segmenters import Notes
from seg_pipeline.segmenters.devices import give_memory_back, loading_errors, pick_device, running_errors
from seg_pipeline.segmenters.weights import weights_sha256

PROTO_STRIDE = 4
"""Mask prototypes have a quarter of the network's input resolution."""

Positions = NDArray[np.floating[Any]]

NMS_IOU = 0.7
MAX_DETECTIONS = 300
PADDING_GREY = 114

_importing = threading.Lock()


class YoloSegmenter:
    """A YOLO-seg checkpoint, ready to segment. Weights load in a restricted way, as data and known classes only."""

    def __init__(
        self,
        name: str,
        weights_path: Path,
        device: str = "auto",
        confidence: float = 0.25,
        config_dir: Path | None = None,
    ) -> None:
        self.name = name
        self.device = pick_device(device)
        self.weights_sha256 = weights_sha256(weights_path)
        self.notes: Notes = {"inference_mode": "exact"}
        self._confidence = confidence
        self._lock = threading.Lock()
        import_ultralytics(config_dir)
        self._model: Any = _load_model(weights_path, self.device)
        self._labels: dict[int, str] = dict(self._model.names)
        self._stride = max(int(self._model.stride.max()), 32)
        self._input_size = _input_size(self._model, self._stride)

    def segment(self, images: Sequence[RgbImage], parameters: Parameters | None = None) -> list[list[Segment]]:
        """The segments of each picture, surest first.

        Pictures go through the network one by one: batches gained nothing measurable (`docs/benchmarks.md`), and so
        the answer for a picture is the same to the last bit whatever stands beside it. Of the parameters `confidence`
        counts.
        """
        confidence = float((parameters or {}).get("confidence", self._confidence))
        with self._lock, running_errors(self.name), torch.inference_mode():
            return [self._segment_one(image, confidence) for image in images]

    def close(self) -> None:
        """Drops the model and gives its memory back, to the device and to the system."""
        with self._lock:
            self._model = None
        give_memory_back()

    def _segment_one(self, image: RgbImage, confidence: float) -> list[Segment]:
        height, width = image.shape[:2]
        letterbox = Letterbox.of((width, height), self._input_size, self._stride)
        detections, prototypes = self._detect(letterbox.apply(image), confidence)
        scores = detections[:, 4:6].cpu().numpy()
        boxes = letterbox.boxes_to_picture(detections[:, :4].cpu().numpy())
        logits = _mask_logits(detections[:, 6:], prototypes)
        masks = [decode_mask(each, box, letterbox) for each, box in zip(logits, boxes, strict=True)]
        return [
            Segment(mask, label=self._labels[int(label)], confidence=float(score))
            for mask, (score, label) in zip(masks, scores, strict=True)
            if mask is not None
        ]

    def _detect(self, pixels: NDArray[np.uint8], confidence: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Detections `(n, 6 + c)`: xyxy in the network's input, confidence, class, c coefficients; prototypes
        `(c, h, w)`."""
        from ultralytics.utils.nms import non_max_suppression

        batch = torch.from_numpy(pixels).to(self.device).permute(2, 0, 1)[None].float().div_(255)
        (predictions, prototypes), _ = self._model(batch)
        detections = non_max_suppression(
            predictions,
            conf_thres=confidence,
            iou_thres=NMS_IOU,
            max_det=MAX_DETECTIONS,
            nc=len(self._labels),
            end2end=bool(getattr(self._model, "end2end", False)),
        )
        return detections[0], prototypes[0]


@dataclass(frozen=True)
class Letterbox:
    """How a picture is fitted into the network's input: scaled to `inner_wh`, its corner at `left`, `top`, grey around.

    The same geometry as ultralytics' `LetterBox(auto=True)`: the smallest rectangle of whole strides.
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

    def prototype_positions(self, columns: Positions, rows: Positions) -> tuple[Positions, Positions]:
        """Where these positions in the picture lie on the grid of the prototypes.

        Not past the last prototype's centre inside the picture: those in the grey say that nothing is there, and would
        take a rim off every thing that the picture's edge cuts.
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


def decode_mask(logits: NDArray[np.float32], xyxy: NDArray[np.float32], letterbox: Letterbox) -> Mask | None:
    """The mask of one detection at full resolution, or None if nothing in its box is set.

    `logits` is `(h, w)` at the prototypes' resolution; it is interpolated (bilinear) inside the box alone, at the
    centre of every pixel of the picture, so the price is the box's area and not the picture's.
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
    """Groups of rows, some 64k pixels each: they stay in the cache, and a large mask needs no large floats."""
    step = max(1, 2**16 // width)
    return (slice(start, start + step) for start in range(0, height, step))


def _interpolate_axis(values: NDArray[np.float32], at: Positions, axis: int) -> NDArray[np.float32]:
    """`values` sampled along one axis at fractional positions, linearly, the edge continued."""
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


def published_yolo_url(name: str, config_dir: Path) -> str | None:
    """Where ultralytics publishes the weights of a model of this name, or None if it does not."""
    import_ultralytics(config_dir)
    from ultralytics.utils import ASSETS_URL
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

    file_name = f"{name}.pt"
    if not name.endswith("-seg") or file_name not in GITHUB_ASSETS_NAMES:
        return None
    release = inspect.signature(attempt_download_asset).parameters["release"].default
    return f"{ASSETS_URL.rsplit('/', 1)[0]}/{release}/{file_name}"


def import_ultralytics(config_dir: Path | None = None) -> None:
    """Imports ultralytics without its habits: it asks the network, installs packages, reports usage, writes settings
    into the home folder and takes torch's threads unless told otherwise before its import.

    Its settings go into `config_dir`, or into a folder that ends with the process.
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
    """The fused network in fp32, ready for inference. Raises ModelError if the file is not one, ModelOutOfMemory."""
    with loading_errors(weights_path, "YOLO-seg", device):
        checkpoint = _load_checkpoint(weights_path)
        model = (checkpoint.get("ema") or checkpoint["model"]).float()
        if "Segment" not in type(model.model[-1]).__name__:
            raise ModelError(f"{weights_path.name} finds boxes but no masks; name weights that end in -seg.pt.")
        model.args = checkpoint.get("train_args") or {}
        layout = torch.channels_last if device == "cpu" else torch.contiguous_format  # a sixth faster on a CPU
        return model.requires_grad_(False).fuse(verbose=False).eval().to(device, memory_format=layout)


def _load_checkpoint(weights_path: Path) -> dict[str, Any]:
    """What the file holds. A .pt file is a pickle, and an unrestricted one runs what it likes: this one is refused if
    it holds more than data and ultralytics' own classes."""
    from ultralytics.nn.tasks import torch_safe_load

    if "'" in str(weights_path):
        raise ModelError(f"{weights_path} has a ' in its path, which ultralytics would drop; move the file.")
    checkpoint, _ = torch_safe_load(weights_path, safe_only=True)
    return dict(checkpoint)


def _input_size(model: Any, stride: int) -> int:
    """The longer side of the network's input: what it was trained with, in whole strides."""
    trained = model.args.get("imgsz", 640)
    size = max(trained) if isinstance(trained, list | tuple) else int(trained)
    return -(-size // stride) * stride
