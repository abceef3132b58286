"""Makes `seg_pipeline/demo/weights/demo-yolo.pt`: a small YOLO-seg, trained from nothing on
generated scenes.

    python scripts/train_demo_yolo.py

Half an hour of one processor core; nothing is downloaded and no GPU is needed. The `README.md`
beside the weights names the runs that the bundled ones come from. The loop around ultralytics'
model and loss is ours: true masks go in with their holes, which its label files cannot hold.
"""

import argparse
import copy
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_VERBOSE", "false")

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import SegmentationModel, torch_safe_load
from ultralytics.utils.torch_utils import ModelEMA

from seg_pipeline.demo.scenes import LABELS, make_scene
from seg_pipeline.demo.scoring import Score, match_masks, score_scene
from seg_pipeline.segmenters.yolo.segmenter import YoloSegmenter

BUNDLED = Path(__file__).parents[1] / "seg_pipeline" / "demo" / "weights" / "demo-yolo.pt"

# Seeds below this are never trained on: tests, samples and the score at the end take theirs from
# there.
FIRST_TRAINING_SEED = 1_000_000
FIRST_SCORING_SEED = 500_000

INPUT_SIDE = 320
MASK_STRIDE = 4
PADDING_GREY = 114

# What the loss reads: "img" (B, 3, S, S), "masks" (B, S/4, S/4); per object "cls", "bboxes",
# "batch_idx".
Batch = dict[str, torch.Tensor]

# YOLOv8n-seg with at most 256 channels: a third of its parameters, and no slower on a CPU than
# narrower ones.
ARCHITECTURE = {
    "nc": len(LABELS),
    "scales": {"d": [0.33, 0.25, 256]},
    "scale": "d",
    "backbone": [
        [-1, 1, "Conv", [64, 3, 2]],
        [-1, 1, "Conv", [128, 3, 2]],
        [-1, 3, "C2f", [128, True]],
        [-1, 1, "Conv", [256, 3, 2]],
        [-1, 6, "C2f", [256, True]],
        [-1, 1, "Conv", [512, 3, 2]],
        [-1, 6, "C2f", [512, True]],
        [-1, 1, "Conv", [1024, 3, 2]],
        [-1, 3, "C2f", [1024, True]],
        [-1, 1, "SPPF", [1024, 5]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 6], 1, "Concat", [1]],
        [-1, 3, "C2f", [512]],
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 4], 1, "Concat", [1]],
        [-1, 3, "C2f", [256]],
        [-1, 1, "Conv", [256, 3, 2]],
        [[-1, 12], 1, "Concat", [1]],
        [-1, 3, "C2f", [512]],
        [-1, 1, "Conv", [512, 3, 2]],
        [[-1, 9], 1, "Concat", [1]],
        [-1, 3, "C2f", [1024]],
        [[15, 18, 21], 1, "Segment", ["nc", 32, 256]],
    ],
}


@dataclass(frozen=True)
class Plan:
    """One training run: how much, how fast, and where to."""

    scenes: int
    epochs: int
    batch: int
    learning_rate: float
    seed: int
    sides: list[int]
    start: Path | None
    out: Path


@dataclass(frozen=True, eq=False)
class Example:
    """A scene as the loss wants it.

    `image` (3, S, S) uint8 RGB; `mask_index` (S/4, S/4) uint8, 0 for the background and n for the
    n-th object; `labels` (n,) int; `boxes` (n, 4) float32 centre x, centre y, width, height as
    shares of the side.
    """

    image: np.ndarray
    mask_index: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray


def make_example(seed: int) -> Example:
    """A square of the network's size: half of the scenes fill it, the others are letterboxed."""
    rng = np.random.default_rng(seed)
    long_side, short_side = INPUT_SIDE, INPUT_SIDE
    if rng.random() < 0.5:
        short_side = int(INPUT_SIDE * rng.uniform(0.6, 1.0))
    height, width = rng.permutation([long_side, short_side])
    scene = make_scene(
        seed, width=int(width), height=int(height), difficulty=float(rng.uniform(0.2, 1.0))
    )
    masks = np.stack([_letterbox(o.mask.astype(np.uint8), 0) for o in scene.objects])
    return Example(
        image=np.ascontiguousarray(_letterbox(scene.image, PADDING_GREY).transpose(2, 0, 1)),
        mask_index=_index_masks(masks),
        labels=np.array([LABELS.index(o.label) for o in scene.objects]),
        boxes=np.stack([_box(mask) for mask in masks]),
    )


def _letterbox(picture: np.ndarray, fill: int) -> np.ndarray:
    """The picture in the middle of the network's square."""
    square = np.full((INPUT_SIDE, INPUT_SIDE, *picture.shape[2:]), fill, np.uint8)
    top, left = ((INPUT_SIDE - side) // 2 for side in picture.shape[:2])
    square[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return square


def _index_masks(masks: np.ndarray) -> np.ndarray:
    side = INPUT_SIDE // MASK_STRIDE
    index = np.zeros((side, side), np.uint8)
    for number, mask in enumerate(masks, start=1):
        share = cv2.resize(mask * 255, (side, side), interpolation=cv2.INTER_AREA)
        index[share > 127] = number
    return index


def _box(mask: np.ndarray) -> np.ndarray:
    left, top, width, height = cv2.boundingRect(mask)
    return np.array([left + width / 2, top + height / 2, width, height], np.float32) / INPUT_SIDE


def make_examples(plan: Plan) -> list[Example]:
    seeds = range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + plan.scenes)
    with ProcessPoolExecutor(2, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        return list(pool.map(make_example, seeds, chunksize=50))


def batches(examples: list[Example], size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """One epoch in a new order, every batch mirrored, turned and recoloured in its own way."""
    order = rng.permutation(len(examples))
    for start in range(0, len(order) - size + 1, size):
        yield _vary(_collate([examples[i] for i in order[start : start + size]]), rng)


def _collate(chosen: list[Example]) -> Batch:
    owners = np.concatenate([np.full(len(e.labels), i) for i, e in enumerate(chosen)])
    return {
        "img": torch.from_numpy(np.stack([e.image for e in chosen])).float() / 255.0,
        "masks": torch.from_numpy(np.stack([e.mask_index for e in chosen])).float(),
        "cls": torch.from_numpy(np.concatenate([e.labels for e in chosen])).float()[:, None],
        "bboxes": torch.from_numpy(np.concatenate([e.boxes for e in chosen])),
        "batch_idx": torch.from_numpy(owners).float(),
    }


def _vary(batch: Batch, rng: np.random.Generator) -> Batch:
    """Mirrors along either axis, swaps the axes and permutes the colour channels, each by
    chance."""
    image, masks, boxes = batch["img"], batch["masks"], batch["bboxes"]
    image = image[:, torch.from_numpy(rng.permutation(3))]
    for axis, centre in ((-1, 0), (-2, 1)):
        if rng.random() < 0.5:
            image, masks = image.flip(axis), masks.flip(axis)
            boxes = boxes.clone()
            boxes[:, centre] = 1.0 - boxes[:, centre]
    if rng.random() < 0.5:
        image, masks, boxes = (
            image.transpose(-1, -2),
            masks.transpose(-1, -2),
            boxes[:, [1, 0, 3, 2]],
        )
    return {**batch, "img": image, "masks": masks, "bboxes": boxes}


def _resize(batch: Batch, side: int) -> Batch:
    """The batch with pictures of another side; boxes are shares of it and stay."""
    image = F.interpolate(batch["img"], (side, side), mode="bilinear", antialias=True)
    masks = F.interpolate(batch["masks"][:, None], (side // MASK_STRIDE,) * 2, mode="nearest")[:, 0]
    return {**batch, "img": image, "masks": masks}


def build_model() -> SegmentationModel:
    model = SegmentationModel(ARCHITECTURE, nc=len(LABELS), verbose=False)
    model.args = get_cfg(  # type: ignore[assignment]  # torch thinks it a part of the network
        overrides={"task": "segment", "overlap_mask": True}
    )
    model.names = dict(enumerate(LABELS))
    return model.to(memory_format=torch.channels_last)


def train(plan: Plan, examples: list[Example]) -> SegmentationModel:
    """The averaged weights after the last epoch; a checkpoint lies at `plan.out` after each
    epoch."""
    torch.manual_seed(plan.seed)
    rng = np.random.default_rng(plan.seed)
    learner = Learner(plan, steps=plan.epochs * (len(examples) // plan.batch))
    averaged = cast(SegmentationModel, learner.average.ema)
    started = time.monotonic()
    for epoch in range(1, plan.epochs + 1):
        side = plan.sides[(epoch - 1) * len(plan.sides) // plan.epochs]
        losses = [
            learner.step(_resize(batch, side)) for batch in batches(examples, plan.batch, rng)
        ]
        save_checkpoint(averaged, plan.out)
        means = " ".join(f"{value:.3f}" for value in np.mean(losses, axis=0))
        print(
            f"epoch {epoch}/{plan.epochs}, {time.monotonic() - started:.0f} s, losses {means}",
            flush=True,
        )
    return averaged


class Learner:
    """The model and what moves it: AdamW over one cycle of the learning rate, and a running
    average."""

    def __init__(self, plan: Plan, steps: int):
        self.model = build_model().train()
        if plan.start:
            self.model.load_state_dict(
                torch_safe_load(plan.start, safe_only=True)[0]["model"].state_dict()
            )
        self.optimizer = torch.optim.AdamW(_parameter_groups(self.model), lr=plan.learning_rate)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            plan.learning_rate,
            total_steps=steps,
            pct_start=0.1,
            cycle_momentum=False,
        )
        self.average = ModelEMA(self.model, decay=0.999, tau=300)

    def step(self, batch: Batch) -> list[float]:
        """One update; returns the parts of the loss: box, mask, class, distance, semantic."""
        with torch.autocast("cpu", torch.bfloat16):
            predictions = self.model(batch["img"].contiguous(memory_format=torch.channels_last))
        loss, parts = self.model.loss(batch, _as_float(predictions))
        loss.sum().div(len(batch["img"])).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.average.update(self.model)
        return [float(part) for part in parts.values()]


def _parameter_groups(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Weight decay on the kernels alone."""
    kernels = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return [{"params": kernels, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]


def _as_float(value: Any) -> Any:
    """The network's nested output in float32: the loss is too delicate for bfloat16."""
    if isinstance(value, torch.Tensor):
        return value.float()
    if isinstance(value, dict):
        return {key: _as_float(item) for key, item in value.items()}
    return type(value)(_as_float(item) for item in value)


def save_checkpoint(model: SegmentationModel, path: Path) -> None:
    """Half precision, and beside the model only what a prediction needs: no path, date or user's
    name."""
    bare = copy.deepcopy(model).half().eval().requires_grad_(False)
    bare.criterion = None
    args = {"task": "segment", "imgsz": INPUT_SIDE}
    bare.args = args  # type: ignore[assignment]  # torch thinks it a part of the network
    checkpoint = {"model": bare, "train_args": args, "epoch": -1, "license": "AGPL-3.0"}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def score(path: Path, scenes: int) -> tuple[Score, np.ndarray]:
    """The score over fresh scenes, and the IoU of every true mask with its match, 0 where there is
    none."""
    segmenter, total, ious = YoloSegmenter("demo-yolo", path, device="cpu"), Score(0, 0, 0), []
    for seed in range(FIRST_SCORING_SEED, FIRST_SCORING_SEED + scenes):
        scene = make_scene(seed)
        (segments,) = segmenter.segment([scene.image])
        predicted, truth = [s.mask.full() for s in segments], [o.mask for o in scene.objects]
        total = total.plus(score_scene(predicted, truth))
        met = [iou for _, _, iou in match_masks(predicted, truth)]
        ious += met + [0.0] * (len(truth) - len(met))
    return total, np.array(ious)


def report(path: Path, scenes: int) -> None:
    total, ious = score(path, scenes)
    deciles = " ".join(f"{q:.3f}" for q in np.quantile(ious, [0.01, 0.05, 0.1, 0.5]))
    print(
        f"{scenes} fresh scenes at IoU 0.75: {total.found_share:.1%} found, {total.false_share:.1%}"
        " false"
    )
    print(f"IoU mean {ious.mean():.3f}; quantiles 1%, 5%, 10%, 50%: {deciles}")


def parse_plan() -> Plan:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=4000, help="generated training scenes")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="of AdamW, at its peak")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the weights and of the order of the scenes"
    )
    parser.add_argument(
        "--sides",
        type=int,
        nargs="+",
        default=[192, 256, INPUT_SIDE],
        help="of the pictures, each for an equal share of the epochs; small ones first save time",
    )
    parser.add_argument("--start", type=Path, help="a checkpoint to go on from; default: nothing")
    parser.add_argument("--out", type=Path, default=BUNDLED)
    return Plan(**vars(parser.parse_args()))


def main() -> None:
    plan = parse_plan()
    torch.set_num_threads(
        1
    )  # two cost three times the processor time, and were slower on a busy machine
    save_checkpoint(train(plan, make_examples(plan)), plan.out)
    report(plan.out, scenes=300)


if __name__ == "__main__":
    main()
