"""SAM-2's automatic masks: `exact` and `turbo` against upstream's generator, picture by picture in
turn.

Each side is a process of its own (`python -m benchmarks.automatic_masks`), so that its peak of
memory is its own: upstream as it comes, upstream with the worker's allocator, and ours with it.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import untrained_sam2
from benchmarks.options import Options
from benchmarks.peaks import peak_kb
from benchmarks.pictures import FIRST_SEED
from benchmarks.progress import say
from benchmarks.tables import Row, row_of
from seg_pipeline.demo.scenes import make_scene
from seg_pipeline.domain import Box, Mask, RgbImage
from seg_pipeline.imaging.masks import mask_iou
from seg_pipeline.model_parameters import DEMO_PARAMETERS, Sam2Parameters
from seg_pipeline.runtime.allocator import keep_freed_memory
from seg_pipeline.segmenters.parity.pictures import PHOTOGRAPHS, photograph
from seg_pipeline.segmenters.sam2.segmenter import Sam2Segmenter
from seg_pipeline.segmenters.weights.locate import BUNDLED

AS_IT_COMES = "upstream as it comes"
SIDES = (AS_IT_COMES, "upstream", "exact", "turbo")
SPEED_TARGETS: dict[str, dict[str, float]] = {
    "exact": {"upstream": 3.5, AS_IT_COMES: 5},
    "turbo": {"upstream": 5, AS_IT_COMES: 7},
}
IOU_TARGETS = {"exact": 0.9995, "turbo": 0.99}


@dataclass(frozen=True)
class Task:
    """A picture, one of `_picture`'s names, and how its masks are asked for."""

    picture: str
    parameters: Sam2Parameters


@dataclass(frozen=True)
class Answer:
    """One picture by one side."""

    seconds: float
    peak_mb: float
    masks: list[Mask]


@dataclass(frozen=True)
class Figures:
    """What is kept of an answer; `ious`: those with upstream's masks, one by one, None if it has
    another number."""

    seconds: float
    peak_mb: float
    masks: int
    ious: list[float] | None


def measure(options: Options) -> list[Row]:
    """Ratios, peaks of memory and agreement for demo-sam2 and for an untrained
    sam2.1_hiera_tiny."""
    scenes = [f"scene {FIRST_SEED + index}" for index in range(options.scaled(8, 2))]
    pictures = [*scenes, *PHOTOGRAPHS]
    rows = _measure_model(
        "demo-sam2", BUNDLED / "demo-sam2.pt", [Task(each, DEMO_PARAMETERS) for each in pictures]
    )
    weights = untrained_sam2.untrained_sam2(options.models, _picture(scenes[0]))
    segmenter = Sam2Segmenter(untrained_sam2.NAME, weights, "cpu", mode="exact")
    points = options.scaled(32, 12)
    tasks = [
        Task(picture, untrained_sam2.fitted_parameters(segmenter, _picture(picture), points))
        for picture in [scenes[0], *PHOTOGRAPHS]
    ]
    segmenter.close()
    return [*rows, *_measure_model(untrained_sam2.NAME, weights, tasks)]


def _measure_model(name: str, weights: Path, tasks: Sequence[Task]) -> list[Row]:
    figures: dict[str, list[Figures]] = {side: [] for side in SIDES}
    with ExitStack() as stack:
        processes = {side: stack.enter_context(_side(name, weights, side)) for side in SIDES}
        for index, task in enumerate(tasks):
            turn = SIDES[index % len(SIDES) :] + SIDES[: index % len(SIDES)]
            answers = {side: _ask(processes[side], task) for side in turn}
            for side, answer in answers.items():
                figures[side].append(_figures(answer, answers["upstream"]))
                say(
                    f"automatic_masks: {name}, {side}: {answer.seconds:.2f} s, {len(answer.masks)}"
                    " masks"
                )
    return [row for mode in SPEED_TARGETS for row in _rows(name, mode, figures)]


def _figures(answer: Answer, upstream: Answer) -> Figures:
    alike = len(answer.masks) == len(upstream.masks)
    ious = (
        [mask_iou(*pair) for pair in zip(answer.masks, upstream.masks, strict=True)]
        if alike
        else None
    )
    return Figures(answer.seconds, answer.peak_mb, len(answer.masks), ious)


def _rows(name: str, mode: str, figures: Mapping[str, list[Figures]]) -> list[Row]:
    rows = []
    for theirs, target in SPEED_TARGETS[mode].items():
        pairs = zip(figures[theirs], figures[mode], strict=True)
        same = "as it comes" if theirs == AS_IT_COMES else "with the same allocator"
        figure = f"{name}: {mode}, times as fast as upstream {same}"
        rows.append(
            row_of(
                figure, [slow.seconds / fast.seconds for slow, fast in pairs], target=f"{target:g}"
            )
        )
    seconds = " and ".join(
        _range(side, [each.seconds for each in figures[side]], ".1f") for side in ("upstream", mode)
    )
    masks = _range("masks", [each.masks for each in figures[mode]], ".0f")
    rows.append(Row(f"{name}: seconds a picture", "", f"{seconds}; {masks}", ""))
    return [*rows, _memory_row(name, mode, figures), _agreement_row(name, mode, figures[mode])]


def _range(what: str, values: Sequence[float], digits: str) -> str:
    return f"{what} {min(values):{digits}} to {max(values):{digits}}"


def _memory_row(name: str, mode: str, figures: Mapping[str, list[Figures]]) -> Row:
    peaks = {
        side: max(each.peak_mb for each in figures[side])
        for side in (AS_IT_COMES, "upstream", mode)
    }
    spread = "MB: " + ", ".join(f"{side} {peak:.0f}" for side, peak in peaks.items())
    figure = f"{name}: {mode}'s peak of memory over that of upstream as it comes"
    return Row(figure, f"{peaks[mode] / peaks[AS_IT_COMES]:.2f}", spread, "1")


def _agreement_row(name: str, mode: str, figures: Sequence[Figures]) -> Row:
    ious = [iou for each in figures if each.ious is not None for iou in each.ious]
    alike = sum(each.ious is not None for each in figures)
    note = (
        f"as many masks on {alike} of {len(figures)} pictures, {len(ious)} masks in the same order"
    )
    mean = f"{statistics.mean(ious):.5f}" if ious else "no masks"
    return Row(
        f"{name}: {mode}, mean IoU with upstream's masks", mean, note, f"{IOU_TARGETS[mode]:g}"
    )


@contextmanager
def _side(name: str, weights: Path, side: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.automatic_masks", side, name, str(weights)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin
        process.stdin.close()


def _ask(process: subprocess.Popen[str], task: Task) -> Answer:
    assert process.stdin
    assert process.stdout
    print(json.dumps(asdict(task)), file=process.stdin, flush=True)
    said = json.loads(process.stdout.readline())
    return Answer(said["seconds"], said["peak_mb"], [_unpacked(*each) for each in said["masks"]])


def main() -> None:
    """The process of one side: a task a line on stdin, an answer a line on stdout."""
    side, name, weights = sys.argv[1:]
    if side != AS_IT_COMES:
        keep_freed_memory()
    mode: Any = "upstream" if side.startswith("upstream") else side
    segmenter = Sam2Segmenter(name, Path(weights), "cpu", mode=mode)
    segmenter.segment(
        [_picture(f"scene {FIRST_SEED}")], {"points_per_side": 8}
    )  # pays for what is loaded once
    for line in sys.stdin:
        task = json.loads(line)
        picture = _picture(task["picture"])
        begin = time.perf_counter()
        segments = segmenter.segment([picture], task["parameters"])[0]
        seconds, peak_mb = time.perf_counter() - begin, peak_kb() / 1024
        masks = [_packed(segment.mask) for segment in segments]
        print(json.dumps({"seconds": seconds, "peak_mb": peak_mb, "masks": masks}), flush=True)


def _picture(name: str) -> RgbImage:
    if name in PHOTOGRAPHS:
        return photograph(name)
    return make_scene(int(name.removeprefix("scene ")), width=960, height=720).image


def _packed(mask: Mask) -> tuple[tuple[int, int], list[int], str]:
    box = mask.box
    return (
        mask.resolution_wh,
        [box.x, box.y, box.width, box.height],
        np.packbits(mask.bits).tobytes().hex(),
    )


def _unpacked(resolution_wh: Sequence[int], xywh: Sequence[int], packed: str) -> Mask:
    box, (width, height) = Box(*xywh), resolution_wh
    bits = np.unpackbits(
        np.frombuffer(bytes.fromhex(packed), np.uint8), count=box.width * box.height
    )
    return Mask((width, height), box, bits.reshape(box.height, box.width).astype(np.bool_))


if __name__ == "__main__":
    main()
