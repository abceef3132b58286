"""YOLO's turbo against its exact mode, whole calls of `segment`, and masks at full resolution
against ultralytics' way.

With the extra `openvino` installed its network is measured beside torch's.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.options import Options
from benchmarks.pictures import FIRST_SEED
from benchmarks.tables import Row, row_of
from benchmarks.untrained_yolo import untrained_yolo
from seg_pipeline.demo.scenes import make_scene
from seg_pipeline.domain import RgbImage
from seg_pipeline.segmenters.weights.locate import BUNDLED
from seg_pipeline.segmenters.yolo import networks
from seg_pipeline.segmenters.yolo.letterbox import Letterbox
from seg_pipeline.segmenters.yolo.masks import decode_mask
from seg_pipeline.segmenters.yolo.segmenter import YoloSegmenter
from seg_pipeline.settings import InferenceMode

PICTURES_AT_ONCE = (1, 8)
DETECTIONS = 30
FULL_HD = (1920, 1080)


def measure(options: Options) -> list[Row]:
    """Exact's seconds over turbo's for two models, one picture a call and eight; then the masks."""
    rounds = options.scaled(15, 3)
    rows = []
    for weights in (untrained_yolo(options.folder), BUNDLED / "demo-yolo.pt"):
        sides = _sides(weights)
        for count in PICTURES_AT_ONCE:
            rows += _rows(weights.stem, sides, count, rounds)
    return [*rows, _masks_row(rounds)]


def _sides(weights: Path) -> dict[str, YoloSegmenter]:
    with patch.object(networks, "openvino_version", lambda: None):
        sides = {"exact": _load(weights, "exact"), "turbo": _load(weights, "turbo")}
    if networks.openvino_version() is not None:
        sides["turbo by OpenVINO"] = _load(weights, "turbo")
    return sides


def _load(weights: Path, mode: InferenceMode) -> YoloSegmenter:
    return YoloSegmenter(weights.stem, weights, "cpu", mode=mode)


def _rows(model: str, sides: Mapping[str, YoloSegmenter], count: int, rounds: int) -> list[Row]:
    pictures = [make_scene(FIRST_SEED + seed, width=640, height=480).image for seed in range(count)]
    seconds = _in_turns(
        {name: _call(segmenter, pictures) for name, segmenter in sides.items()}, rounds
    )
    exact = seconds.pop("exact")
    first = row_of(
        f"{model}, exact: a picture of {count}", [1000 * each / count for each in exact], "ms"
    )
    return [
        first,
        *(
            _ratio_row(f"{model}, {count} at once", name, exact, each)
            for name, each in seconds.items()
        ),
    ]


def _call(segmenter: YoloSegmenter, pictures: Sequence[RgbImage]) -> Callable[[], object]:
    return lambda: segmenter.segment(pictures)


def _ratio_row(what: str, name: str, exact: Sequence[float], quick: Sequence[float]) -> Row:
    return row_of(
        f"{what}: exact's seconds over {name}'s", [a / b for a, b in zip(exact, quick, strict=True)]
    )


def _masks_row(rounds: int) -> Row:
    """`retina_masks` upsamples every mask over the whole picture; ours are computed inside their
    boxes."""
    from ultralytics.utils.ops import process_mask_native

    letterbox = Letterbox.of(FULL_HD, 640, 32)
    boxes, coefficients, prototypes = _detections(letterbox)
    xyxy = letterbox.boxes_to_picture(boxes)

    def ours() -> None:
        logits = (
            (coefficients @ prototypes.view(len(prototypes), -1))
            .view(-1, *prototypes.shape[1:])
            .numpy()
        )
        for each, box in zip(logits, xyxy, strict=True):
            decode_mask(each, box, letterbox)

    def theirs() -> None:
        process_mask_native(prototypes, coefficients, torch.from_numpy(xyxy), FULL_HD[::-1])

    seconds = _in_turns({"ours": ours, "theirs": theirs}, rounds)
    ratios = [slow / quick for slow, quick in zip(seconds["theirs"], seconds["ours"], strict=True)]
    return row_of(f"{DETECTIONS} masks at 1920x1080: retina_masks' seconds over ours", ratios)


def _detections(letterbox: Letterbox) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """Boxes of a tenth to a third of the input's sides, `(n, 4)`, coefficients and prototypes."""
    rng = np.random.default_rng(0)
    width, height = letterbox.outer_wh
    sides = rng.uniform(0.1, 0.33, (DETECTIONS, 2)) * (width, height)
    corners = rng.uniform(0, 1, (DETECTIONS, 2)) * ((width, height) - sides)
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    coefficients, prototypes = (
        torch.from_numpy(rng.standard_normal(shape, np.float32))
        for shape in ((DETECTIONS, 32), (32, height // 4, width // 4))
    )
    return boxes, coefficients, prototypes


def _in_turns(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in each round, without two to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 2):
        for name, call in sides.items():
            begin = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begin)
    return {name: each[2:] for name, each in seconds.items()}
