"""SAM-2's automatic masks on the device by upstream's generator, turbo and exact, one by one.

The networks have random weights, with thresholds that leave about a hundred masks a picture. Each
side is loaded alone, so that its memory is its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks import untrained_sam2
from benchmarks.gpu.findings import Agreement, Asked, Finding
from benchmarks.gpu.sam2_pieces import pieces
from benchmarks.gpu.timing import in_turns, settle
from benchmarks.pictures import FIRST_SEED
from benchmarks.tables import Row, row_of
from seg_pipeline.demo.scenes import make_scene
from seg_pipeline.domain import RgbImage, Segment
from seg_pipeline.model_parameters import DEMO_PARAMETERS
from seg_pipeline.runtime.allocator import keep_freed_memory
from seg_pipeline.segmenters.devices import give_memory_back
from seg_pipeline.segmenters.parity.pictures import photograph
from seg_pipeline.segmenters.sam2.batched.generator import BatchedMasks
from seg_pipeline.segmenters.sam2.segmenter import Mode, Sam2Segmenter
from seg_pipeline.segmenters.weights.locate import BUNDLED

MODES: tuple[Mode, ...] = ("upstream", "turbo", "exact")
TARGETS = {"turbo": 8.0, "exact": 3.0}
"""How many times as fast as upstream each is to be."""

LEAST_IOU = {"turbo": 0.99, "exact": 0.9995}
PIXELS_AT_ONCE = 2**18
POINTS_ON_CPU = 16


@dataclass(frozen=True)
class Subject:
    """A network and what it is shown: pictures by name, and the parameters for each."""

    name: str
    weights: Path
    pictures: Mapping[str, RgbImage]
    parameters: Mapping[str, dict[str, Any]]


@dataclass(frozen=True)
class Side:
    """What one mode found in each picture, and the milliseconds of each round."""

    found: dict[str, list[Segment]]
    spent: dict[str, list[float]]


def measure(asked: Asked) -> Iterator[Finding]:
    """Times, memory and agreement of the three, and where turbo's time goes."""
    yield from measure_modes(asked, "sam2.1_hiera_large", MODES)
    if not asked.short:
        yield from _trained_agrees(asked)


def measure_modes(asked: Asked, name: str, modes: Sequence[Mode]) -> Iterator[Finding]:
    """The same for a network, in some modes; upstream's is the first."""
    subject = _demo(asked) if asked.short else _untrained(asked, name)
    upstream: Side | None = None
    for mode in modes:
        with closing(load(subject, asked.device, mode)) as segmenter:
            yield from _quickened(segmenter, mode, asked)
            side = _timed(segmenter, subject, asked)
            yield from _times(mode, side, upstream)
            yield from _memory(mode, asked)
            if mode == "turbo":
                yield from pieces(segmenter, subject.pictures, subject.parameters, asked)
        if upstream is not None:
            yield from _agreements(mode, side, upstream, asked)
        upstream = upstream or side
        _forget(asked)


def load(subject: Subject, device: str, mode: Mode) -> Sam2Segmenter:
    """The network in a mode, in a GPU's shape wherever it runs. A CPU gets batches that suit it.

    Ours keep the host's memory, as workers do. Upstream comes first and as it is.
    """
    if mode != "upstream":
        keep_freed_memory()
    segmenter = Sam2Segmenter(subject.name, subject.weights, device, mode=mode, batched=True)
    if device == "cpu" and isinstance(segmenter._ours, BatchedMasks):
        segmenter._ours.points = POINTS_ON_CPU
    return segmenter


def _demo(asked: Asked) -> Subject:
    pictures = {"a scene of 320x240": make_scene(FIRST_SEED, width=320, height=240).image}
    parameters = {**vars(DEMO_PARAMETERS), "points_per_side": 8}
    return Subject(
        "demo-sam2", BUNDLED / "demo-sam2.pt", pictures, dict.fromkeys(pictures, parameters)
    )


def _untrained(asked: Asked, name: str) -> Subject:
    pictures = {
        "a photograph of 1800x1200": cv2.resize(photograph("zidane.jpg"), (1800, 1200)),
        "a scene of 960x720": make_scene(FIRST_SEED, width=960, height=720).image,
    }
    pictures = {what: picture.astype(np.uint8, copy=False) for what, picture in pictures.items()}
    untrained_sam2.NAME = name
    weights = untrained_sam2.untrained_sam2(asked.folder, next(iter(pictures.values())))
    with closing(Sam2Segmenter(name, weights, asked.device, batched=True)) as segmenter:
        parameters = {
            what: vars(untrained_sam2.fitted_parameters(segmenter, picture, 32))
            for what, picture in pictures.items()
        }
    _forget(asked)
    return Subject(name, weights, pictures, parameters)


def _quickened(segmenter: Sam2Segmenter, mode: str, asked: Asked) -> Iterator[Row]:
    """Compiles on a GPU, and says how long that took and what became of it."""
    if not asked.on_cuda or not segmenter.is_batched:
        return
    begin = perf_counter()
    segmenter.quicken()
    segmenter.settle()
    masks = segmenter._ours
    assert isinstance(masks, BatchedMasks)
    spent = f"{perf_counter() - begin:.0f} s"
    _forget(asked)  # else the peak would be the compiler's
    yield Row(f"{mode}: until it is as quick as it gets", spent, masks.forms)


def _timed(segmenter: Sam2Segmenter, subject: Subject, asked: Asked) -> Side:
    """The first answer of each picture, and the times of the next ones."""
    found, spent = {}, {}
    for what, picture in subject.pictures.items():
        call = partial(segmenter.segment, [picture], subject.parameters[what])
        found[what] = call()[0]
        times = in_turns({what: call}, asked.device, asked.scaled(5, 1), warm_up=1)
        spent[what] = times[what]
    return Side(found, spent)


def _times(mode: str, side: Side, upstream: Side | None) -> Iterator[Row]:
    for what, spent in side.spent.items():
        note = f"{len(side.found[what])} masks"
        yield row_of(f"{mode}, {what}", spent, "ms", note=note)
        if upstream is not None:
            ratio = fmean(upstream.spent[what]) / fmean(spent)
            target = f"at least {TARGETS[mode]:g}"
            yield Row(f"{mode}, {what}: times as fast as upstream", f"{ratio:.2f}", "", target)


def _memory(mode: str, asked: Asked) -> Iterator[Row]:
    """Graphs hold memory that torch counts as reserved alone."""
    if asked.on_cuda:
        peaks = torch.cuda.max_memory_allocated, torch.cuda.max_memory_reserved
        allocated, reserved = (f"{peak(asked.device) / 2**20:.0f} MB" for peak in peaks)
        yield Row(f"{mode}'s peak of device memory", reserved, f"{allocated} of it allocated")


def _agreements(mode: str, side: Side, upstream: Side, asked: Asked) -> Iterator[Finding]:
    for what, found in side.found.items():
        ious = best_ious(upstream.found[what], found, asked.device)
        mean = fmean(ious) if ious else 0.0
        holds = mean >= LEAST_IOU[mode] and (mode != "exact" or _as_many(found, upstream, what))
        seen = f"mean IoU {mean:.5f}; {len(upstream.found[what])} and {len(found)} masks"
        yield Agreement(f"{mode}, {what}: upstream's masks", holds, seen)


def _as_many(found: Sequence[Segment], upstream: Side, what: str) -> bool:
    """As many masks, but for a few: untrained scores lie close to the thresholds."""
    theirs = len(upstream.found[what])
    return abs(len(found) - theirs) <= 0.05 * theirs


def best_ious(theirs: Sequence[Segment], ours: Sequence[Segment], device: str) -> list[float]:
    """For each of their masks the greatest IoU with any of ours, by products on the device."""
    if not theirs or not ours:
        return [0.0] * len(theirs)
    flat = [
        torch.from_numpy(np.stack([each.mask.full().ravel() for each in side]))
        for side in (theirs, ours)
    ]
    common = torch.zeros(len(theirs), len(ours), dtype=torch.float64, device=device)
    for one, other in zip(*(each.split(PIXELS_AT_ONCE, 1) for each in flat), strict=True):
        common += (one.to(device).float() @ other.to(device).float().T).double()
    areas = [
        torch.tensor([each.mask.area for each in side], device=device) for side in (theirs, ours)
    ]
    union = areas[0][:, None] + areas[1] - common
    return [float(iou) for iou in (common / union).amax(1)]


def _trained_agrees(asked: Asked) -> Iterator[Finding]:
    """The demo model has learnt where masks are, so its scores are far from the thresholds."""
    scenes = {f"scene {seed}": make_scene(seed, width=640, height=480).image for seed in range(4)}
    subject = Subject("demo-sam2", BUNDLED / "demo-sam2.pt", scenes, {})
    found: dict[str, list[list[Segment]]] = {}
    for mode in MODES:
        with closing(load(subject, asked.device, mode)) as segmenter:
            found[mode] = segmenter.segment([*scenes.values()])
    for mode in ("exact", "turbo"):
        pairs = zip(found["upstream"], found[mode], strict=True)
        ious = [iou for pair in pairs for iou in best_ious(*pair, asked.device)]
        counts = [[len(each) for each in found[side]] for side in ("upstream", mode)]
        holds = fmean(ious) >= LEAST_IOU[mode] and (mode == "turbo" or counts[0] == counts[1])
        seen = f"mean IoU {fmean(ious):.5f}; {counts[0]} and {counts[1]} masks"
        yield Agreement(f"demo-sam2, {mode}: upstream's masks", holds, seen)


def _forget(asked: Asked) -> None:
    give_memory_back()
    if asked.on_cuda:
        settle(asked.device)
        torch.cuda.reset_peak_memory_stats(asked.device)
