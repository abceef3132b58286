"""Models for tests: real ones, small and untrained."""

from pathlib import Path
from typing import Any


def save_untrained_yolo(
    path: Path, architecture: str = "yolov8n-seg.yaml", input_size: int = 160
) -> Path:
    """A YOLO-seg of three classes with random weights, its classifier biased so that it finds
    something everywhere."""
    from seg_pipeline.segmenters.yolo.segmenter import import_ultralytics

    import_ultralytics()
    import torch
    from ultralytics.nn.tasks import SegmentationModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = SegmentationModel(architecture, nc=3, verbose=False)
        _settle(model)
        head = model.model[-1]
        for classifier in [*head.cv3, *getattr(head, "one2one_cv3", [])]:
            torch.nn.init.normal_(classifier[-1].weight, std=0.02)
            torch.nn.init.constant_(classifier[-1].bias, -1.5)
    model.names = {0: "circle", 1: "square", 2: "star"}
    torch.save({"model": model, "train_args": {"imgsz": input_size, "task": "segment"}}, path)
    return path


def save_untrained_sam2(path: Path) -> Path:
    """The small SAM-2 with random weights; it finds something at every point if nothing is
    filtered."""
    import torch

    from seg_pipeline.segmenters.sam2.segmenter import build_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save({"model": build_model("demo-sam2").state_dict()}, path)
    return path


def _settle(model: Any) -> None:
    """Gives the normalisations the statistics of a noisy picture, without which the signal dies on
    its way."""
    import torch

    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for layer in layers:
        layer.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.rand(2, 3, 16, 16).repeat_interleave(10, 2).repeat_interleave(10, 3))
    model.eval()
