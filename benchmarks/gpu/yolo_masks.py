"""YOLO's masks alone: the kernel, torch's operators and the host, from the same logits."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch

from benchmarks.gpu.findings import Agreement, Asked, Finding
from benchmarks.gpu.timing import in_turns, ratios
from benchmarks.tables import Row, row_of
from seg_pipeline.domain import Mask
from seg_pipeline.segmenters.yolo.device_masks import DeviceMasks, torch_pack
from seg_pipeline.segmenters.yolo.letterbox import Letterbox
from seg_pipeline.segmenters.yolo.masks import MaskMaker, host_masks

SEGMENTS = 51
PICTURE_WH = (1280, 720)
Case = tuple[list[np.ndarray], list[torch.Tensor], torch.Tensor, list[Letterbox]]


def measure(asked: Asked) -> Iterator[Finding]:
    """Milliseconds a picture, alone and of eight, and whether the bits are the same."""
    on_device = DeviceMasks(asked.device)
    makers: dict[str, MaskMaker] = {
        "the GPU's": on_device,
        "torch's": DeviceMasks(asked.device, torch_pack),
        "the host's": host_masks,
    }
    for pictures in (1, asked.scaled(8, 2)):
        case = _case(pictures, asked.device)
        calls = {name: partial(_made, make, case) for name, make in makers.items()}
        found = {name: call() for name, call in calls.items()}
        for name in ("the GPU's", "torch's"):
            yield _same(f"{name} masks and the host's, {pictures} at once", found[name], found)
        spent = in_turns(calls, asked.device, asked.scaled(20, 1), asked.scaled(3, 1))
        for name, each in spent.items():
            values = [one / pictures for one in each]
            yield row_of(f"{name} {SEGMENTS} masks, {pictures} at once: a picture", values, "ms")
        gain = ratios(spent["the host's"], spent["the GPU's"])
        yield row_of(f"the host's time over the GPU's, {pictures} at once", gain)
    yield Row("how they are made", f"{on_device.notes['masks']}", "", "triton")


def _made(make: MaskMaker, case: Case) -> list[Mask | None]:
    with torch.inference_mode():
        return [mask for masks in make(*case) for mask in masks]


def _case(pictures: int, device: str) -> Case:
    """Smooth masks in boxes of a tenth to half of the picture's sides.

    The coefficients choose one prototype each, so that the product is exact wherever it is made.
    """
    rng = np.random.default_rng(0)
    letterbox = Letterbox.of(PICTURE_WH, 640, 32)
    width, height = letterbox.outer_wh
    coarse = rng.standard_normal((pictures, SEGMENTS, height // 32, width // 32), dtype=np.float32)
    size = (height // 4, width // 4)
    smooth = torch.nn.functional.interpolate(torch.from_numpy(coarse), size=size, mode="bilinear")
    boxes = [_boxes(rng) for _ in range(pictures)]
    chosen = [torch.eye(SEGMENTS, device=device) for _ in range(pictures)]
    return boxes, chosen, smooth.to(device), [letterbox] * pictures


def _boxes(rng: np.random.Generator) -> np.ndarray:
    sides = rng.uniform(0.1, 0.5, (SEGMENTS, 2)) * PICTURE_WH
    corners = rng.uniform(0, 1, (SEGMENTS, 2)) * (PICTURE_WH - sides)
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def _same(what: str, ours: Sequence[Mask | None], found: dict[str, list[Mask | None]]) -> Agreement:
    theirs = found["the host's"]
    differing = sum(not _equal(one, other) for one, other in zip(ours, theirs, strict=True))
    return Agreement(f"{what}: the same bits", not differing, f"{differing} of {len(ours)} differ")


def _equal(one: Mask | None, other: Mask | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.box == other.box and np.array_equal(one.bits, other.bits)
