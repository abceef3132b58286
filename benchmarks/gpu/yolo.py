"""YOLO-seg on the device: a large network of random weights, and fifty masks a picture."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import torch

from benchmarks.gpu.findings import Agreement, Asked, Finding
from benchmarks.gpu.models import confidence_for, random_yolo
from benchmarks.gpu.timing import in_turns, peak_mb, ratios
from benchmarks.pictures import FIRST_SEED
from benchmarks.tables import Row, row_of
from seg_pipeline.demo.scenes import make_scene
from seg_pipeline.domain import RgbImage, Segment
from seg_pipeline.runtime.allocator import keep_freed_memory
from seg_pipeline.segmenters.parity.gate import LEAST_MEAN_IOU, judge
from seg_pipeline.segmenters.weights.locate import BUNDLED
from seg_pipeline.segmenters.yolo.letterbox import Letterbox
from seg_pipeline.segmenters.yolo.segmenter import YoloSegmenter
from seg_pipeline.settings import InferenceMode

SEGMENTS = 51
PICTURES_AT_ONCE = (1, 8, 16)
SHORT_PICTURES_AT_ONCE = (1, 2)
TARGET_MS = 8.0


def measure(asked: Asked) -> Iterator[Finding]:
    """Seconds a picture of both modes, alone and together, and how alike their masks are."""
    keep_freed_memory()  # as workers do
    architecture = "yolov8n-seg.yaml" if asked.short else "yolov8x-seg.yaml"
    weights = random_yolo(asked.folder, architecture)
    counts = SHORT_PICTURES_AT_ONCE if asked.short else PICTURES_AT_ONCE
    pictures = _pictures(max(counts))
    sides = {mode: _load(weights, asked.device, mode) for mode in ("exact", "turbo")}
    confidence = confidence_for(sides["exact"], pictures[0], SEGMENTS)
    yield Row("turbo", _notes(sides["turbo"]))
    for count in counts:
        yield from _timed(asked, sides, pictures[:count], confidence)
        yield from _pieces(asked, sides["turbo"], pictures[:count], confidence)
    yield Row("turbo, at the end", _notes(sides["turbo"]))
    yield from _demo_agrees(asked)
    yield from _newest(asked, pictures[: asked.scaled(8, 1)])


def _notes(segmenter: YoloSegmenter) -> str:
    return ", ".join(f"{name} {note}" for name, note in segmenter.notes.items())


def _pictures(count: int) -> list[RgbImage]:
    return [make_scene(FIRST_SEED, width=1280, height=720).image for _ in range(count)]


def _load(weights: Path, device: str, mode: str) -> YoloSegmenter:
    chosen: InferenceMode = "exact" if mode == "exact" else "turbo"
    return YoloSegmenter(weights.stem, weights, device, mode=chosen)


def _timed(
    asked: Asked, sides: dict[str, YoloSegmenter], pictures: Sequence[RgbImage], confidence: float
) -> Iterator[Finding]:
    calls = {
        mode: partial(each.segment, pictures, {"confidence": confidence})
        for mode, each in sides.items()
    }
    found = {mode: call() for mode, call in calls.items()}
    spent = in_turns(calls, asked.device, asked.scaled(15, 1), asked.scaled(4, 1))
    alone = f"{len(pictures)} at once"
    for mode, each in spent.items():
        counts = fmean(map(len, found[mode]))
        target = f"at most {TARGET_MS:g} ms" if mode == "turbo" else ""
        values = [one / len(pictures) for one in each]
        yield row_of(
            f"{mode}, {alone}: a picture", values, "ms", target, f"{counts:.1f} segments a picture"
        )
    yield row_of(f"exact's time over turbo's, {alone}", ratios(spent["exact"], spent["turbo"]))
    if peak := peak_mb(calls["turbo"], asked.device):
        yield Row(f"turbo's peak of device memory, {alone}", f"{peak:.0f} MB")


def _pieces(
    asked: Asked, segmenter: YoloSegmenter, pictures: Sequence[RgbImage], confidence: float
) -> Iterator[Finding]:
    """Where turbo's time goes, each piece until the device is done with it."""
    width, height = pictures[0].shape[1::-1]
    letterbox = Letterbox.of((width, height), segmenter._input_size, segmenter._stride)
    group = [(letterbox, picture) for picture in pictures]
    with torch.inference_mode():
        predictions, prototypes = (each.clone() for each in segmenter._run(group))
        ones = predictions.split(1)
        detections = [segmenter._suppress(each, confidence) for each in ones]
        calls: dict[str, Callable[[], object]] = {
            "the network, from pixels on the host": partial(segmenter._run, group),
            "non-maximum suppression": lambda: [
                segmenter._suppress(each.clone(), confidence) for each in ones
            ],
            "boxes to the host, and masks": partial(
                segmenter._decode, detections, prototypes, [letterbox] * len(pictures)
            ),
        }
        for name, spent in in_turns(
            calls, asked.device, asked.scaled(10, 1), asked.scaled(4, 1)
        ).items():
            values = [each / len(pictures) for each in spent]
            yield row_of(f"turbo, {len(pictures)} at once, of it {name}: a picture", values, "ms")


def _demo_agrees(asked: Asked) -> Iterator[Finding]:
    """A trained model, whose masks mean something: both modes, and the CPU's exact masks."""
    weights = BUNDLED / "demo-yolo.pt"
    scenes = [make_scene(seed, width=640, height=480).image for seed in range(asked.scaled(20, 2))]
    exact = _load(weights, asked.device, "exact").segment(scenes)
    yield _alike("demo-yolo, exact here and exact on the CPU", exact, _on_cpu(weights, scenes))
    turbo = _load(weights, asked.device, "turbo").segment(scenes)
    yield _alike("demo-yolo, exact and turbo", exact, turbo)


def _newest(asked: Asked, pictures: Sequence[RgbImage]) -> Iterator[Finding]:
    """A YOLO26, whose head chooses its boxes itself."""
    architecture = "yolo26n-seg.yaml" if asked.short else "yolo26x-seg.yaml"
    weights = random_yolo(asked.folder, architecture)
    turbo = _load(weights, asked.device, "turbo")
    confidence = confidence_for(turbo, pictures[0], SEGMENTS)
    call = partial(turbo.segment, pictures, {"confidence": confidence})
    counts = fmean(map(len, call()))
    spent = in_turns({"turbo": call}, asked.device, asked.scaled(10, 1), asked.scaled(4, 1))[
        "turbo"
    ]
    values = [each / len(pictures) for each in spent]
    figure = f"{weights.stem}, turbo, {len(pictures)} at once: a picture"
    yield row_of(figure, values, "ms", "", f"{counts:.1f} segments a picture")


def _on_cpu(weights: Path, scenes: Sequence[RgbImage]) -> list[list[Segment]]:
    return _load(weights, "cpu", "exact").segment(scenes)


def _alike(
    what: str, ours: Sequence[Sequence[Segment]], theirs: Sequence[Sequence[Segment]]
) -> Agreement:
    verdict = judge(ours, theirs)
    holds = verdict.pairs > 0 and verdict.mean_iou >= LEAST_MEAN_IOU and verdict.others <= 1
    seen = f"mean IoU {verdict.mean_iou:.5f} of {verdict.pairs} masks, {verdict.others} of"
    return Agreement(what, holds, f"{seen} {verdict.pictures} pictures with others")
