"""SAM-2's automatic masks: `exact` and `turbo` against upstream's generator, picture by picture in turn.

Each side is a process of its own (`python -m benchmarks.automatic_masks`), so that its peak of memory is its own:
upstream as it comes, upstream with the worker's allocator, and ours with it.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import seg_pipeline.demo
from benchmarks.options import Options
from benchmarks.pictures import FIRST_SEED
from benchmarks.progress import say
from benchmarks.tables import Row, row_of
from seg_pipeline.allocator import keep_freed_memory
from seg_pipeline.demo.scenes import make_scene
from seg_pipeline.domain import Box, Mask
from seg_pipeline.masks import mask_iou
from seg_pipeline.segmenters.sam2 import Sam2Segmenter, build_model
from seg_pipeline.segmenters.sam2_generator import PointBatches
from seg_pipeline.segmenters.sam2_parameters import DEMO_PARAMETERS, Sam2Parameters
from seg_pipeline.segmenters.sam2_upstream import UpstreamMasks

WIDTH, HEIGHT = 960, 720
SIDES = ("upstream as it comes", "upstream", "exact", "turbo")
TARGETS = {("exact", "upstream"): 3.5, ("exact", SIDES[0]): 5, ("turbo", "upstream"): 5, ("turbo", SIDES[0]): 7}
DEMO_WEIGHTS = Path(seg_pipeline.demo.__file__).parent / "weights" / "demo-sam2.pt"
LOGITS_SPREAD = 8.0


@dataclass(frozen=True)
class Model:
    """What a side segments with."""

    name: str
    weights: Path
    parameters: Sam2Parameters


@dataclass(frozen=True)
class Answer:
    """One picture by one side; a mask is its box and its packed bits."""

    seconds: float
    peak_mb: float
    masks: list[Mask]


def measure(options: Options) -> list[Row]:
    """Ratios, peaks of memory and agreement for demo-sam2 and for an untrained sam2.1_hiera_tiny."""
    demo = Model("demo-sam2", DEMO_WEIGHTS, DEMO_PARAMETERS)
    rows = _measure_model(demo, options.scaled(8, 3))
    tiny = untrained_tiny(options.models, options.scaled(32, 12))
    return [*rows, *_measure_model(tiny, options.scaled(3, 1))]


def _measure_model(model: Model, pictures: int) -> list[Row]:
    with ExitStack() as stack:
        asking = {side: stack.enter_context(_side(model, side)) for side in SIDES}
        answers: dict[str, list[Answer]] = {side: [] for side in SIDES}
        for index in range(pictures + 1):
            for side in SIDES[index % len(SIDES) :] + SIDES[: index % len(SIDES)]:
                answers[side].append(_ask(asking[side], FIRST_SEED + index))
                say(f"automatic_masks: {model.name}, {side}: {answers[side][-1].seconds:.2f} s")
    warm = {side: each[1:] for side, each in answers.items()}
    return [*_ratios(model.name, warm), *_rates(model.name, warm), *_agreement(model.name, warm)]


def _ratios(name: str, answers: dict[str, list[Answer]]) -> list[Row]:
    rows = []
    for (ours, theirs), target in TARGETS.items():
        pairs = zip(answers[theirs], answers[ours], strict=True)
        ratios = [slow.seconds / fast.seconds for slow, fast in pairs]
        same = "with the same allocator" if theirs == "upstream" else "as it comes"
        rows.append(row_of(f"{name}: {ours}, times as fast as upstream {same}", ratios, target=f"{target:g}"))
    return rows


def _rates(name: str, answers: dict[str, list[Answer]]) -> list[Row]:
    peaks = {side: max(answer.peak_mb for answer in each) for side, each in answers.items()}
    memory = ", ".join(f"{side} {peak:.0f}" for side, peak in peaks.items())
    rates = {side: [len(a.masks) / a.seconds for a in each] for side, each in answers.items()}
    return [
        *(row_of(f"{name}: {side}, masks a second", rates[side]) for side in ("upstream", "exact", "turbo")),
        Row(f"{name}: exact's peak of memory over upstream's", f"{peaks['exact'] / peaks['upstream']:.2f}",
            f"MB: {memory}", "1"),
    ]  # fmt: skip


def _agreement(name: str, answers: dict[str, list[Answer]]) -> list[Row]:
    rows = []
    for ours, target in (("exact", "0.9995"), ("turbo", "0.99")):
        pairs = [*zip(answers[ours], answers["upstream"], strict=True)]
        alike = [len(one.masks) == len(other.masks) for one, other in pairs]
        matched = [both for one, other in pairs if len(one.masks) == len(other.masks)
                   for both in zip(one.masks, other.masks, strict=True)]  # fmt: skip
        ious = [mask_iou(*both) for both in matched]
        note = f"as many masks on {sum(alike)} of {len(alike)} pictures, {len(ious)} masks in the same order"
        figure = f"{name}: {ours}, mean IoU with upstream's masks"
        rows.append(Row(figure, f"{statistics.mean(ious):.5f}" if ious else "no masks", note, target))
    return rows


def untrained_tiny(folder: Path, points_per_side: int) -> Model:
    """A `sam2.1_hiera_tiny` with random weights and masks as smooth as a trained one's.

    Three in five are above the threshold of predicted IoU and dozens are stable. All of those are kept: their boxes are
    alike, since an untrained network draws over the whole picture.
    """
    path = folder / "sam2.1_hiera_tiny-untrained.pt"
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        model = build_model("sam2.1_hiera_tiny").eval()
        _smooth(model.sam_mask_decoder)
        _spread(model)
        torch.save({"model": model.state_dict()}, path)
    name = "sam2.1_hiera_tiny"
    everything = Sam2Parameters(points_per_side=8, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1)
    segments = Sam2Segmenter(name, path, "cpu", everything).segment([_picture(FIRST_SEED)])[0]
    iou = float(np.quantile([segment.predicted_iou or 0 for segment in segments], 0.4))
    stability = float(np.quantile([segment.stability_score or 0 for segment in segments], 0.95))
    asked = replace(everything, points_per_side=points_per_side, pred_iou_thresh=iou, stability_score_thresh=stability)
    return Model(name, path, asked)


def _smooth(decoder: Any) -> None:
    """Neighbouring pixels of a random network's masks have nothing to do with one another; a trained one's do."""
    for upscaling in (decoder.output_upscaling[0], decoder.output_upscaling[3]):
        upscaling.weight.copy_(upscaling.weight.mean((2, 3), keepdim=True).expand_as(upscaling.weight))
    for fine in (decoder.conv_s0, decoder.conv_s1):
        fine.weight.zero_()


def _spread(model: Any) -> None:
    """Gives masks an inside and an outside: a random network's logits are nearly the same all over the picture."""
    features, logits = _features_and_logits(model)
    common = torch.nn.functional.normalize(features.flatten(1).mean(1), dim=0)
    for network in model.sam_mask_decoder.output_hypernetworks_mlps:
        last = network.layers[-1]
        last.weight.sub_(torch.outer(common, common @ last.weight))
        last.bias.sub_(common * (common @ last.bias))
    _, logits = _features_and_logits(model)
    for network in model.sam_mask_decoder.output_hypernetworks_mlps:
        network.layers[-1].weight.mul_(LOGITS_SPREAD / logits.std())
        network.layers[-1].bias.mul_(LOGITS_SPREAD / logits.std())


def _features_and_logits(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What the hypernetworks' products are of, `(c / 8, h, w)`, and the products, for a point in the middle."""
    seen: list[torch.Tensor] = []
    hook = model.sam_mask_decoder.output_upscaling[-1].register_forward_hook(lambda *each: seen.append(each[2]))
    predictor = UpstreamMasks(model, PointBatches()).predictor
    predictor.set_image(_picture(FIRST_SEED))
    _, _, logits = predictor.predict(np.array([[WIDTH / 2, HEIGHT / 2]]), np.array([1]))
    hook.remove()
    return seen[0][0], torch.from_numpy(logits)


@contextmanager
def _side(model: Model, side: str) -> Iterator[subprocess.Popen[str]]:
    arguments = json.dumps({"name": model.name, "weights": str(model.weights), "parameters": asdict(model.parameters)})
    command = [sys.executable, "-m", "benchmarks.automatic_masks", side, arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin
        process.stdin.close()


def _ask(process: subprocess.Popen[str], seed: int) -> Answer:
    assert process.stdin
    assert process.stdout
    print(seed, file=process.stdin, flush=True)
    said = json.loads(process.stdout.readline())
    masks = [_unpacked(*each) for each in said["masks"]]
    return Answer(said["seconds"], said["peak_mb"], masks)


def _answer_for_ever(side: str, model: Model) -> None:
    """The process of one side: a seed a line on stdin, an answer a line on stdout."""
    if side != SIDES[0]:
        keep_freed_memory()
    mode: Any = "upstream" if side.startswith("upstream") else side
    segmenter = Sam2Segmenter(model.name, model.weights, "cpu", model.parameters, mode)
    for line in sys.stdin:
        picture = _picture(int(line))
        begin = time.perf_counter()
        segments = segmenter.segment([picture])[0]
        seconds = time.perf_counter() - begin
        masks = [_packed(segment.mask) for segment in segments]
        print(json.dumps({"seconds": seconds, "peak_mb": _peak_mb(), "masks": masks}), flush=True)


def _picture(seed: int) -> Any:
    return make_scene(seed, width=WIDTH, height=HEIGHT).image


def _packed(mask: Mask) -> tuple[list[int], str]:
    box = mask.box
    return [box.x, box.y, box.width, box.height], np.packbits(mask.bits).tobytes().hex()


def _unpacked(xywh: Sequence[int], packed: str) -> Mask:
    box = Box(*xywh)
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(packed), np.uint8), count=box.width * box.height)
    return Mask((WIDTH, HEIGHT), box, bits.reshape(box.height, box.width).astype(np.bool_))


def _peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """One side, as `measure` starts it."""
    side, arguments = sys.argv[1:]
    said = json.loads(arguments)
    _answer_for_ever(side, Model(said["name"], Path(said["weights"]), Sam2Parameters(**said["parameters"])))


if __name__ == "__main__":
    main()
