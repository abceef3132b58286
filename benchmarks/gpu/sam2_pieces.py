"""Where the time of SAM-2's batched masks goes, and whether its kernels agree with torch."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.findings import Agreement, Asked, Finding
from benchmarks.gpu.timing import in_turns
from benchmarks.tables import Row, row_of
from seg_pipeline.domain import RgbImage
from seg_pipeline.model_parameters import merged_parameters
from seg_pipeline.segmenters.sam2.batched.generator import BatchedMasks, Frame, _survivors, _windows
from seg_pipeline.segmenters.sam2.batched.measures import Ask, measure_plainly
from seg_pipeline.segmenters.sam2.batched.packing import Download, pack_plainly
from seg_pipeline.segmenters.sam2.batched.preprocessing import network_input, upload
from seg_pipeline.segmenters.sam2.segmenter import Sam2Segmenter

MOST_OFF = 1e-4
"""Of a pixel of the network's input, which is about 1."""


def pieces(
    segmenter: Sam2Segmenter,
    pictures: Mapping[str, RgbImage],
    parameters: Mapping[str, dict[str, Any]],
    asked: Asked,
) -> Iterator[Finding]:
    """Each step's time on the first picture, until the device is done with it."""
    what, picture = next(iter(pictures.items()))
    masks = segmenter._ours
    assert isinstance(masks, BatchedMasks)
    height, width = picture.shape[:2]
    asked_for = merged_parameters(segmenter.parameters, parameters[what])
    frame = Frame((0, 0, width, height), (width, height), asked_for)
    with torch.inference_mode():
        yield _same_input(segmenter, picture, asked)
        calls, ask, windows = _calls(masks, picture, frame)
        for name, spent in in_turns(calls, asked.device, asked.scaled(10, 1), warm_up=1).items():
            yield row_of(f"turbo, {what}, of it {name}", spent, "ms")
        yield _same_measures(masks, ask)
        yield _same_bits(masks, windows)


def _calls(
    masks: BatchedMasks, picture: RgbImage, frame: Frame
) -> tuple[dict[str, Callable[[], object]], Ask, Any]:
    """The steps one by one, and what measures and packing are asked in this picture."""
    network, device = masks._network, masks._device
    pixels = network_input(picture, network.side, device)
    cache = masks._encode(pixels)
    coordinates = upload(_grid(frame) * network.side, device)
    size = masks._batches.size(masks.points)
    points = partial(masks._all_masks, cache, coordinates, size, frame.parameters)
    candidates = masks._group(cache, coordinates, size, frame)
    wanted = candidates.predicted_iou > frame.parameters.pred_iou_thresh
    ask = Ask(candidates.logits, wanted, frame.size, frame.thresholds)
    crop = _survivors(candidates, frame)
    windows = _windows(crop, range(len(crop.boxes)), frame.parameters.mask_threshold)
    calls: dict[str, Callable[[], object]] = {
        "preprocessing": partial(network_input, picture, network.side, device),
        "the encoder": partial(masks._encode, pixels),
        f"the decoder, {len(coordinates)} points": points,
        f"measures of {len(wanted)} masks": partial(masks._measure, ask),
        "non-maximum suppression": partial(_survivors, candidates, frame),
        f"packing {len(crop.boxes)} masks": partial(masks._pack, windows),
        "packing, copying and unpacking them": partial(_downloaded, masks, windows),
    }
    return calls, ask, windows


def _downloaded(masks: BatchedMasks, windows: Any) -> None:
    download = Download(windows, masks._pack)
    if masks._device.type == "cuda":
        torch.cuda.current_stream().synchronize()
    download.masks()


def _grid(frame: Frame) -> np.ndarray[Any, np.dtype[np.float32]]:
    side = frame.parameters.points_per_side
    at = (np.arange(side, dtype=np.float32) + 0.5) / side
    return np.stack(np.meshgrid(at, at), -1).reshape(-1, 2).astype(np.float32)


def _same_input(segmenter: Sam2Segmenter, picture: RgbImage, asked: Asked) -> Agreement:
    assert segmenter._upstream is not None
    predictor = segmenter._upstream.predictor
    theirs: Tensor = predictor._transforms(picture)[None]
    ours = network_input(picture, predictor.model.image_size, torch.device(asked.device))
    off = float((ours.cpu() - theirs).abs().max())
    return Agreement("preprocessing: upstream's input", off <= MOST_OFF, f"off by {off:.1e}")


def _same_measures(masks: BatchedMasks, ask: Ask) -> Finding:
    """The kernel's counts and boxes of the wanted masks, against torch's."""
    if masks._measure is measure_plainly:
        return Row("the kernel for measures", "none", "torch measures", "a kernel")
    ours, theirs = masks._measure(ask), measure_plainly(ask)
    off = max(
        int((getattr(ours, name) - getattr(theirs, name))[ask.wanted].abs().max())
        for name in ("counts", "boxes")
    )
    return Agreement("the kernel for measures: torch's", off <= 2, f"off by {off} pixels at most")


def _same_bits(masks: BatchedMasks, windows: Any) -> Finding:
    if masks._pack is pack_plainly:
        return Row("the kernel for packing", "none", "torch packs", "a kernel")
    off = int((masks._pack(windows) != pack_plainly(windows)).sum())
    seen = f"{off} of {windows.bytes} bytes differ"
    return Agreement("the kernel for packing: torch's", off <= 1e-5 * windows.bytes + 2, seen)
