"""Networks of random weights, built from ultralytics' own descriptions without a download."""

from pathlib import Path
from typing import Any

import torch

from seg_pipeline.domain import RgbImage
from seg_pipeline.segmenters.yolo.segmenter import YoloSegmenter, import_ultralytics

CLASSES = 80
SETTLED_ON = 320
"""Side of the noise that the normalisations are set by."""

LEAST_CONFIDENCE = 0.001


def random_yolo(folder: Path, architecture: str) -> Path:
    """Its weights in a file, the same at every call. It finds things everywhere."""
    path = folder / f"{Path(architecture).stem}-random.pt"
    if not path.exists():
        import_ultralytics()
        from ultralytics.nn.tasks import SegmentationModel

        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            model: Any = SegmentationModel(architecture, nc=CLASSES, verbose=False)
            _settle(model)
        model.names = {number: f"thing {number}" for number in range(CLASSES)}
        torch.save({"model": model, "train_args": {"imgsz": 640, "task": "segment"}}, path)
    return path


def _settle(model: Any) -> None:
    """Gives the normalisations statistics, without which the signal dies on its way, and scores a
    spread."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    cells = torch.rand(2, 3, SETTLED_ON // 10, SETTLED_ON // 10)
    model.train()(cells.repeat_interleave(10, 2).repeat_interleave(10, 3))
    head = model.eval().model[-1]
    for classifier in [*head.cv3, *getattr(head, "one2one_cv3", [])]:
        torch.nn.init.normal_(classifier[-1].weight, std=0.02)
        torch.nn.init.constant_(classifier[-1].bias, -1.5)


def confidence_for(segmenter: YoloSegmenter, picture: RgbImage, segments: int) -> float:
    """The confidence at which it finds so many segments in the picture, or all that it can."""
    found = segmenter.segment([picture], {"confidence": LEAST_CONFIDENCE})[0]
    scores = [each.confidence or 0.0 for each in found]
    if len(scores) <= segments:
        return LEAST_CONFIDENCE
    return (scores[segments - 1] + scores[segments]) / 2
