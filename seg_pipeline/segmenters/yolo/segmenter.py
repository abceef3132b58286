"""YOLO-seg through ultralytics: labels, confidences and masks at full resolution.

Only the network, its non-maximum suppression and its file format are ultralytics'. Its `predict` is
not used. A picture's answer there depends on the other shapes in the batch. It also sets torch's
threads for the whole process, prints, writes below the current folder, and upsamples every mask
over the whole picture.
"""

import logging
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

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
    on_device,
    pick_device,
    running_errors,
)
from seg_pipeline.segmenters.weights.digest import weights_sha256
from seg_pipeline.segmenters.yolo.device_masks import DeviceMasks, empty_on_host, to_host
from seg_pipeline.segmenters.yolo.graphs import CudaCapture, GraphedNetwork
from seg_pipeline.segmenters.yolo.letterbox import Letterbox
from seg_pipeline.segmenters.yolo.masks import MaskMaker, host_masks
from seg_pipeline.segmenters.yolo.networks import Network, PlainNetwork, fast_network
from seg_pipeline.settings import InferenceMode

NMS_IOU = 0.7
MAX_DETECTIONS = 300

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
    machine has (`networks.py`), with pictures of one shape together. `converted_dir` keeps what
    OpenVINO's form is made of.
    """

    def __init__(
        self,
        name: str,
        weights_path: Path,
        device: str = "auto",
        confidence: float = 0.25,
        mode: InferenceMode = "exact",
        converted_dir: Path | None = None,
    ) -> None:
        self.name = name
        self.device = pick_device(device)
        self.weights_sha256 = weights_sha256(weights_path)
        self._confidence = confidence
        self._lock = threading.Lock()
        self._steps: tuple[GraphedNetwork | DeviceMasks, ...] = ()
        self._masks: MaskMaker = host_masks
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
                self._network = fast_network(model, self.device, self.weights_sha256, converted_dir)
        self.notes: Notes = {"inference_mode": mode, "batch_size": self._batch_size}
        self.notes |= {"precision": self._network.precision, "engine": self._network.engine}
        if self.device.startswith("cuda"):
            self._go_without_the_host(model.model[-1])

    def _go_without_the_host(self, head: Any) -> None:
        """Has the GPU do what the host would wait for: its kernels' launches, NMS and the masks."""
        import torchvision  # noqa: F401  ultralytics' own NMS asks the host about each box

        assert self._network is not None
        self._network = GraphedNetwork(self._network, CudaCapture(head))
        self._masks = DeviceMasks(self.device)
        self._steps = (self._network, self._masks)

    def segment(
        self, images: Sequence[RgbImage], parameters: Parameters | None = None
    ) -> list[list[Segment]]:
        """The segments of each picture, best first. Of the parameters only `confidence` counts.

        In `exact` a picture's answer is bit for bit the same whatever else is in the call. In
        `turbo` it is the same up to the rounding of its precision.
        """
        confidence = float((parameters or {}).get("confidence", self._confidence))
        with (
            self._lock,
            running_errors(self.name),
            on_device(self.device),
            torch.inference_mode(),
        ):
            found = self._segment_all(images, confidence)
            for step in self._steps:
                self.notes |= step.notes
            return found

    def close(self) -> None:
        """Drops the model and frees its memory, on the device and in the system."""
        with self._lock:
            self._network, self._masks, self._steps = None, host_masks, ()
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
        predictions, prototypes = self._run(group)
        detections = [
            self._suppress(predictions[index : index + 1], confidence)
            for index in range(len(group))
        ]
        return self._decode(detections, prototypes, [letterbox for letterbox, _ in group])

    def _run(self, group: Sequence["Fitted"]) -> tuple[torch.Tensor, torch.Tensor]:
        """Predictions and prototypes of the pictures, whose letterboxes have one shape."""
        network: Any = self._network
        width, height = group[0][0].outer_wh
        device = torch.device(self.device)
        pixels = empty_on_host((len(group), height, width, 3), torch.uint8, device)
        for outer, (letterbox, image) in zip(pixels.numpy(), group, strict=True):
            letterbox.apply(image, outer)
        batch = pixels.to(device, non_blocking=True)
        return network(batch.permute(0, 3, 1, 2).float().div_(255))

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
        self,
        detections: Sequence[torch.Tensor],
        prototypes: torch.Tensor,
        letterboxes: Sequence[Letterbox],
    ) -> list[list[Segment]]:
        counts = [len(each) for each in detections]
        on_host = to_host(torch.cat([each[:, :6] for each in detections]))
        found = np.split(on_host, np.cumsum(counts)[:-1])
        boxes = [
            letterbox.boxes_to_picture(each[:, :4])
            for letterbox, each in zip(letterboxes, found, strict=True)
        ]
        coefficients = [each[:, 6:] for each in detections]
        masks = self._masks(boxes, coefficients, prototypes, letterboxes)
        return [self._segments(each[:, 4:], made) for each, made in zip(found, masks, strict=True)]

    def _segments(self, scores: NDArray[np.float32], masks: Sequence[Mask | None]) -> list[Segment]:
        return [
            Segment(mask, label=self._labels[int(label)], confidence=float(score))
            for mask, (score, label) in zip(masks, scores, strict=True)
            if mask is not None
        ]


Fitted = tuple[Letterbox, RgbImage]
"""A picture, and how it is fitted into the network's input."""


def _with_one_shape(fitted: Sequence[Fitted]) -> list[list[int]]:
    """Groups of positions whose pictures have one shape of the network's input."""
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, (letterbox, _) in enumerate(fitted):
        alike[letterbox.outer_wh].append(index)
    return list(alike.values())


def import_ultralytics() -> None:
    """Imports ultralytics without its side effects.

    It would ask the network, install packages, report usage, write settings into the home folder
    and take over torch's threads. Its settings go into a folder that is removed after the import.
    """
    with _importing, TemporaryDirectory(prefix="ultralytics-") as settings_dir:
        if "ultralytics.nn.tasks" in sys.modules:
            return
        wanted = {
            "YOLO_OFFLINE": "true",
            "YOLO_AUTOINSTALL": "false",
            "YOLO_VERBOSE": "false",
            "YOLO_CONFIG_DIR": settings_dir,
        }
        before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", *wanted)}
        threads = torch.get_num_threads()
        os.environ.update(wanted)
        try:
            import ultralytics.nn.tasks  # noqa: F401
        finally:
            torch.set_num_threads(threads)
            _restore_environment(before)


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
