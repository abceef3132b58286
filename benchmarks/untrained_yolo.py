"""A `yolov8n-seg` whose network is random, for timing where the published weights cannot be had:
the work of the real one, and about as many segments a picture as it has objects. Only its last
layer of scores is fitted (a linear one, to where things lie in generated scenes): random scores
find hundreds of things in one picture and none in the next.
"""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.pictures import FIRST_SEED
from seg_pipeline.demo.scenes import Scene, make_scene
from seg_pipeline.segmenters.yolo.segmenter import YoloSegmenter, import_ultralytics
from seg_pipeline.settings import Settings

ARCHITECTURE = "yolov8n-seg.yaml"
INPUT_SIZE = 640
STRIDE = 16
CLASSES = 80
SEGMENTS_PER_PICTURE = 5.0
SAMPLE = 12
NEVER = -30.0


def untrained_yolo(folder: Path) -> Path:
    """Its weights in a file, the same at every call; at the default confidence it finds a handful
    in a scene."""
    path = folder / "yolov8n-seg-untrained.pt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        scenes = [
            make_scene(FIRST_SEED + number, width=INPUT_SIZE, height=INPUT_SIZE)
            for number in range(SAMPLE)
        ]
        model = _random_model(scenes)
        _save(model, path)
        _shift_scores(model, _confidence_of_a_handful(path, scenes))
        _save(model, path)
    return path


def _random_model(scenes: Sequence[Scene]) -> Any:
    import_ultralytics()
    from ultralytics.nn.tasks import SegmentationModel

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model: Any = SegmentationModel(ARCHITECTURE, nc=CLASSES, verbose=False)
        batch = (
            torch.from_numpy(np.stack([scene.image for scene in scenes]))
            .permute(0, 3, 1, 2)
            .float()
            / 255
        )
        _settle(model, batch)
        _fit_scores(model, batch, _centres(scenes))
    model.names = {number: f"thing {number}" for number in range(CLASSES)}
    return model


def _settle(model: Any, batch: torch.Tensor) -> None:
    """Gives the normalisations the statistics of real pictures, without which the signal dies on
    its way."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    model.train()(batch)
    model.eval()


def _centres(scenes: Sequence[Scene]) -> torch.Tensor:
    """Where the middles of things are, `(n, rows, columns)` of the middle level's cells."""
    cells = np.zeros((len(scenes), INPUT_SIZE // STRIDE, INPUT_SIZE // STRIDE), np.float32)
    for number, scene in enumerate(scenes):
        for thing in scene.objects:
            (x, y), _ = cv2.minEnclosingCircle(np.argwhere(thing.mask)[:, ::-1].astype(np.int32))
            cells[
                number,
                min(int(y) // STRIDE, cells.shape[1] - 1),
                min(int(x) // STRIDE, cells.shape[2] - 1),
            ] = 1
    return torch.from_numpy(cells)


def _fit_scores(model: Any, batch: torch.Tensor, wanted: torch.Tensor) -> None:
    """Least squares from the features of the middle level to one class; the other classes and
    levels find nothing."""
    _, classifier, _ = (layers[-1] for layers in model.model[-1].cv3)
    seen: list[torch.Tensor] = []
    hook = classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(batch)
    hook.remove()
    features = seen[0].permute(0, 2, 3, 1).flatten(0, 2)
    features = torch.cat([features, torch.ones(len(features), 1)], 1)
    solution = torch.linalg.lstsq(features, wanted.flatten()[:, None], driver="gelsd").solution[
        :, 0
    ]
    for layers in model.model[-1].cv3:
        layers[-1].weight.zero_()
        layers[-1].bias.fill_(NEVER)
    scale = 1 / (features @ solution).std()
    classifier.weight[0, :, 0, 0], classifier.bias[0] = solution[:-1] * scale, solution[-1] * scale


def _save(model: Any, path: Path) -> None:
    torch.save({"model": model, "train_args": {"imgsz": INPUT_SIZE, "task": "segment"}}, path)


def _confidence_of_a_handful(path: Path, scenes: Sequence[Scene]) -> float:
    """The confidence below which more than a handful are found, coming from above."""
    segmenter, score = YoloSegmenter(path.stem, path, "cpu"), 8.0
    pictures = [scene.image for scene in scenes[:8]]
    while _mean_count(segmenter, pictures, _sigmoid(score)) < SEGMENTS_PER_PICTURE:
        score -= 0.5
    return _sigmoid(score)


def _mean_count(
    segmenter: YoloSegmenter, pictures: Sequence[np.ndarray], confidence: float
) -> float:
    return statistics.mean(map(len, segmenter.segment(pictures, {"confidence": confidence})))


def _shift_scores(model: Any, confidence: float) -> None:
    """Moves what had this confidence to the default one."""
    default = float(Settings.model_fields["confidence"].default)
    for layers in model.model[-1].cv3:
        layers[-1].bias.data += _logit(default) - _logit(confidence)


def _sigmoid(score: float) -> float:
    return 1 / (1 + math.exp(-score))


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
