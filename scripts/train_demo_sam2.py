"""Makes `seg_pipeline/demo/weights/demo-sam2.pt`: a small SAM-2, trained from nothing on generated
scenes.

    python scripts/train_demo_sam2.py

Nothing is downloaded and no GPU is needed; how the bundled weights came about stands beside them.
It can be stopped at any time: it goes on from its last checkpoint, and `--out` always holds the
best model so far.
"""

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from seg_pipeline.demo.scenes import make_scene
from seg_pipeline.demo.scoring import Score, score_scene
from seg_pipeline.segmenters.sam2.segmenter import Sam2Segmenter, build_model

BUNDLED = Path(__file__).parents[1] / "seg_pipeline" / "demo" / "weights" / "demo-sam2.pt"

# Seeds below this are never trained on: tests, samples and the score at the end take theirs from
# there.
FIRST_TRAINING_SEED = 2_000_000
FIRST_CHECKING_SEED = 600_000

# The buffers of a step are kept, not returned and faulted in again: half of the time. Read when a
# process starts.
MALLOC = (
    "glibc.malloc.mmap_threshold=8589934592:glibc.malloc.trim_threshold=17179869184:"
    "glibc.malloc.top_pad=268435456"
)

IMAGE_SIZE = 256
MASK_STRIDE = 4
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


@dataclass(frozen=True)
class Plan:
    """One training run: how much, how fast, and where to."""

    scenes: int
    steps: int
    learning_rate: float
    threads: int
    seed: int
    work: Path
    start: Path | None
    out: Path
    check_minutes: float


@dataclass(frozen=True)
class Phase:
    """What is trained until a share of the steps is done: the input's side, pictures a step,
    prompts a picture."""

    until: float
    side: int
    pictures: int
    prompts: int
    difficulty: tuple[float, float]


PHASES = (
    Phase(0.10, 128, 16, 10, (0.0, 0.4)),
    Phase(0.40, 128, 16, 10, (0.0, 1.0)),
    Phase(0.63, 192, 10, 10, (0.2, 1.0)),
    Phase(1.00, 256, 8, 12, (0.3, 1.0)),
)


@dataclass(frozen=True, eq=False)
class Scenes:
    """`images` (n, S, S, 3) uint8; `index` (n, S, S) uint8, 0 for the background and k for the k-th
    object."""

    images: np.ndarray
    index: np.ndarray
    difficulty: np.ndarray

    def between(self, difficulty: tuple[float, float]) -> np.ndarray:
        return np.flatnonzero(
            (self.difficulty >= difficulty[0]) & (self.difficulty <= difficulty[1])
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """`images` (B, 3, s, s) normalised; `points` (B, P, 2) x, y in input pixels; `truth` (B, P,
    s/4, s/4), the share of each cell that the object under the point covers; `on_object` (B, P)
    bool."""

    images: Tensor
    points: Tensor
    truth: Tensor
    on_object: Tensor


def make_example(seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Half of the scenes are square, the others are squeezed to a square, as SAM-2 does it."""
    rng = np.random.default_rng(seed)
    difficulty = float(rng.uniform(0.0, 1.0))
    wh = [320, 320]
    if rng.random() < 0.5:
        wh[rng.integers(2)] = int(320 * rng.uniform(0.6, 1.0))
    scene = make_scene(seed, width=wh[0], height=wh[1], difficulty=difficulty)
    index = np.zeros(scene.image.shape[:2], np.uint8)
    for number, thing in enumerate(scene.objects, start=1):
        index[thing.mask] = number
    side = (IMAGE_SIZE, IMAGE_SIZE)
    image = cv2.resize(scene.image, side, interpolation=cv2.INTER_AREA)
    return image, cv2.resize(index, side, interpolation=cv2.INTER_NEAREST_EXACT), difficulty


def make_scenes(plan: Plan) -> Scenes:
    """The scenes of a plan, drawn once and kept beside the checkpoint."""
    path = plan.work / f"scenes-{plan.scenes}.npz"
    if not path.exists():
        seeds = range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + plan.scenes)
        with ProcessPoolExecutor(
            plan.threads, initializer=cv2.setNumThreads, initargs=(1,)
        ) as pool:
            images, index, difficulty = zip(
                *pool.map(make_example, seeds, chunksize=32), strict=True
            )
        np.savez(
            path, images=np.stack(images), index=np.stack(index), difficulty=np.array(difficulty)
        )
    return Scenes(**np.load(path))


def batches(scenes: Scenes, phase: Phase, rng: np.random.Generator) -> Iterator[Batch]:
    """Random batches for ever, mirrored, turned, in other colours."""
    candidates = scenes.between(phase.difficulty)
    while True:
        chosen = rng.choice(candidates, phase.pictures, replace=False)
        parts = [
            _make_part(*_vary(scenes.images[i], scenes.index[i], rng), phase, rng) for i in chosen
        ]
        images, points, truth, on_object = (
            torch.from_numpy(np.stack(part)) for part in zip(*parts, strict=True)
        )
        yield Batch(images.permute(0, 3, 1, 2).contiguous(), points, truth, on_object)


def _vary(
    image: np.ndarray, index: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    turns, mirror = int(rng.integers(4)), 1 - 2 * int(rng.integers(2))
    image, index = np.rot90(image[:, ::mirror], turns), np.rot90(index[:, ::mirror], turns)
    return image[..., rng.permutation(3)], np.ascontiguousarray(index)


def _make_part(
    image: np.ndarray, index: np.ndarray, phase: Phase, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One picture's share of a batch."""
    side, cells = phase.side, phase.side // MASK_STRIDE
    small = _shrink(np.ascontiguousarray(image), side)
    pixels = (small * np.float32(rng.uniform(0.8, 1.15) / 255) - MEAN) / STD
    points = _sample_points(index, phase.prompts, rng)
    under = index[points[:, 1], points[:, 0]]
    share = {n: _shrink((index == n).astype(np.float32), cells) for n in {*under}}
    at = (points + np.float32(0.5)) * np.float32(side / IMAGE_SIZE) - np.float32(0.5)
    return pixels, at, np.stack([share[n] for n in under]), under > 0


def _shrink(picture: np.ndarray, side: int) -> np.ndarray:
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)


def _sample_points(index: np.ndarray, prompts: int, rng: np.random.Generator) -> np.ndarray:
    """Pixels (P, 2) x, y: a third on the background, half of them near an object, where a wrong
    mask looks best; the others are shared fairly among the objects."""
    beside = (cv2.dilate(index, np.ones((17, 17), np.uint8)) > 0) & (index == 0)
    places = {number: np.flatnonzero(index == number) for number in np.unique(index)}
    background = [places[0]] * (prompts // 6) + [np.flatnonzero(beside)] * (prompts // 6)
    objects = rng.choice([number for number in places if number], prompts - len(background))
    at = [int(rng.choice(pixels)) for pixels in background + [places[number] for number in objects]]
    return np.array([(p % index.shape[1], p // index.shape[1]) for p in at])


class Learner(nn.Module):
    """The network, and a head that training alone needs: an embedding of each cell, near for cells
    of one object."""

    def __init__(self) -> None:
        super().__init__()
        self.sam = build_model("demo-sam2")
        _look_near_the_point(self.sam)
        self.embed = nn.Conv2d(self.sam.hidden_dim, 16, 1)
        self.scale = nn.Parameter(torch.tensor([4.0, 2.0]))

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Mask logits (B, P, 4, h, w), predicted IoU (B, P, 4), logits by embedding (B, P, h,
        w)."""
        pictures, prompts = batch.points.shape[:2]
        fine, middle, coarse = self.sam.image_encoder(batch.images)["backbone_fpn"]
        near = self._near(self.embed(fine), batch.points)
        coarse = coarse + self.sam.no_mem_embed.view(1, -1, 1, 1)
        decoder = self.sam.sam_mask_decoder
        masks, iou = self._decode(
            batch, [coarse, decoder.conv_s0(fine), decoder.conv_s1(middle)], batch.images.shape[-1]
        )
        return masks.unflatten(0, (pictures, prompts)), iou.unflatten(0, (pictures, prompts)), near

    def _decode(self, batch: Batch, features: list[Tensor], side: int) -> tuple[Tensor, Tensor]:
        prompts = batch.points.shape[1]
        coarse, *fine = (level.repeat_interleave(prompts, 0) for level in features)
        encoder = self.sam.sam_prompt_encoder
        encoder.image_embedding_size, encoder.input_image_size = (
            (side // 16, side // 16),
            (side, side),
        )
        points = batch.points.flatten(0, 1)[:, None].float()
        sparse, dense = encoder((points, torch.ones(points.shape[:2], dtype=torch.int)), None, None)
        masks, iou, _, _ = self.sam.sam_mask_decoder.predict_masks(
            coarse,
            encoder.get_dense_pe(),
            sparse,
            dense,
            repeat_image=False,
            high_res_features=fine,
        )
        return masks, iou

    def _near(self, embedding: Tensor, points: Tensor) -> Tensor:
        cell = (points / MASK_STRIDE).long()
        at = torch.stack([embedding[b, :, xy[:, 1], xy[:, 0]].T for b, xy in enumerate(cell)])
        flat = embedding.flatten(2)
        distance = at.square().sum(2)[..., None] + flat.square().sum(1)[:, None] - 2 * at @ flat
        return (self.scale[1] - self.scale[0] * distance).unflatten(2, embedding.shape[2:])


@torch.no_grad()
def _look_near_the_point(sam: Any) -> None:
    """Lets attention between tokens and picture start out where their positions agree, which is
    slow to be found."""
    decoder = sam.sam_mask_decoder.transformer
    crossing = [decoder.final_attn_token_to_image]
    for layer in decoder.layers:
        crossing += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    for attention in crossing:
        nn.init.orthogonal_(attention.q_proj.weight, gain=2.0)
        attention.k_proj.weight.copy_(attention.q_proj.weight)
    encoder = sam.sam_prompt_encoder
    for embedding in (*encoder.point_embeddings, encoder.not_a_point_embed):
        embedding.weight.mul_(0.2)


def mask_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy and dice of each mask: the last two axes are averaged away."""
    truth = truth.expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((-2, -1))
    inside = logits.sigmoid()
    overlap = 2 * (inside * truth).sum((-2, -1)) + 1
    return 5 * entropy + 1 - overlap / (inside.sum((-2, -1)) + truth.sum((-2, -1)) + 1)


def loss_of(learner: Learner, batch: Batch, aux_weight: float) -> tuple[Tensor, dict[str, float]]:
    """The loss of a batch. Background points train the predicted IoU (towards 0) and the embedding,
    but no mask."""
    masks, iou, near = learner(batch)
    on, truth = batch.on_object, batch.truth
    each = mask_loss(masks[on], truth[on][:, None])
    mask = (
        0.5 * each[:, 1:].min(1).values.mean() + 0.5 * each[:, 1:].mean() + 0.25 * each[:, 0].mean()
    )
    reached = _iou(masks.detach() > 0, (truth > 0.5)[:, :, None]) * on[..., None]
    # Not the squared error: nothing is right at first, which drives the sigmoid to where that has
    # no slope.
    quality = F.binary_cross_entropy(iou.clamp(1e-6, 1 - 1e-6), reached)
    aux = mask_loss(near, truth).mean()
    report = {"mask": mask.item(), "iou": reached[on][:, 1:].max(1).values.mean().item()}
    report |= {"iou_error": F.mse_loss(iou, reached).item() ** 0.5, "aux": aux.item()}
    return mask + quality + aux_weight * aux, report


def _iou(ours: Tensor, truth: Tensor) -> Tensor:
    shared, either = (ours & truth).sum((-2, -1)), (ours | truth).sum((-2, -1))
    return shared / either.clamp(min=1)


@dataclass(eq=False)
class Run:
    """All that a checkpoint holds."""

    learner: Learner
    average: Learner
    optimizer: torch.optim.Optimizer
    step: int = 0
    best: float = -math.inf

    @classmethod
    def start(cls, plan: Plan) -> "Run":
        torch.manual_seed(plan.seed)
        learner, average = Learner(), Learner()
        if plan.start:
            learner.sam.load_state_dict(torch.load(plan.start, weights_only=True)["model"])
        average.load_state_dict(learner.state_dict())
        decayed = [p for p in learner.parameters() if p.ndim > 1]
        rest = [p for p in learner.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.03}, {"params": rest, "weight_decay": 0.0}]
        run = cls(
            learner, average, torch.optim.AdamW(groups, plan.learning_rate, betas=(0.9, 0.98))
        )
        run.resume(plan.work / "checkpoint.pt")
        return run

    def resume(self, path: Path) -> None:
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.learner.load_state_dict(state["learner"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best = state["step"], state["best"]

    def save(self, path: Path) -> None:
        parts = {
            name: getattr(self, name).state_dict() for name in ("learner", "average", "optimizer")
        }
        torch.save({**parts, "step": self.step, "best": self.best}, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def take_step(self, batch: Batch, rate: float, aux_weight: float) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, report = loss_of(self.learner, batch, aux_weight)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.learner.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self._average(min(0.998, (1 + self.step) / (10 + self.step)))
        return report

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        ours = self.learner.state_dict()
        for name, value in self.average.state_dict().items():
            value.lerp_(ours[name], 1 - decay)


def learning_rate(plan: Plan, step: int) -> float:
    """A short rise, then half a cosine to a hundredth."""
    rise = min(1.0, (step + 1) / 200)
    fall = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(step / plan.steps, 1.0)))
    return plan.learning_rate * rise * fall


def train(plan: Plan, scenes: Scenes) -> None:
    run = Run.start(plan)
    try:
        for phase in PHASES:
            train_phase(run, plan, phase, scenes)
        check(run, plan)
    finally:
        run.save(plan.work / "checkpoint.pt")


def train_phase(run: Run, plan: Plan, phase: Phase, scenes: Scenes) -> None:
    """Goes on to the end of the phase, if it is not past it."""
    source = batches(scenes, phase, np.random.default_rng([plan.seed, run.step]))
    aux_weight = 1.0 if phase.side < IMAGE_SIZE else 0.3
    checked_at = time.monotonic()
    while run.step < phase.until * plan.steps:
        began = time.monotonic()
        reports = [
            run.take_step(next(source), learning_rate(plan, run.step), aux_weight)
            for _ in range(50)
        ]
        _print_reports(run.step, phase, reports, (time.monotonic() - began) / len(reports))
        if time.monotonic() - checked_at > 60 * plan.check_minutes:
            check(run, plan)
            checked_at = time.monotonic()


def _print_reports(
    step: int, phase: Phase, reports: list[dict[str, float]], seconds: float
) -> None:
    means = " ".join(f"{key} {np.mean([r[key] for r in reports]):.3f}" for key in reports[0])
    print(
        f"{time.strftime('%H:%M:%S')} step {step} at {phase.side} px {seconds:.2f} s/step {means}",
        flush=True,
    )


def check(run: Run, plan: Plan) -> None:
    """Scores the averaged network as it will be used, and keeps it if it is the best so far."""
    run.save(plan.work / "checkpoint.pt")
    candidate = plan.work / "candidate.pt"
    save_weights(run.average.sam, candidate)
    score = automatic_score(candidate, scenes=12)
    shares = f"found {score.found_share:.1%} false {score.false_share:.1%}"
    print(f"{time.strftime('%H:%M:%S')} step {run.step} CHECK {shares}", flush=True)
    merit = score.found_share - max(0.0, score.false_share - 0.08)
    if merit >= run.best:
        run.best = merit
        candidate.replace(plan.out)
        run.save(plan.work / "checkpoint.pt")


def automatic_score(weights: Path, scenes: int) -> Score:
    """Objects found at IoU 0.75 and false masks on fresh scenes."""
    segmenter, total = Sam2Segmenter("demo-sam2", weights, "cpu"), Score(0, 0, 0)
    for seed in range(FIRST_CHECKING_SEED, FIRST_CHECKING_SEED + scenes):
        scene = make_scene(seed)
        (segments,) = segmenter.segment([scene.image])
        total = total.plus(
            score_scene([s.mask.full() for s in segments], [o.mask for o in scene.objects])
        )
    return total


def save_weights(sam: nn.Module, path: Path) -> None:
    """In upstream's form, in half precision."""
    state: dict[str, Any] = {name: value.half() for name, value in sam.state_dict().items()}
    torch.save({"model": state}, path)


def parse_plan() -> Plan:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=4000, help="generated training scenes")
    parser.add_argument("--steps", type=int, default=2900)
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of AdamW, at its peak")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--seed", type=int, default=0, help="of the weights and of the order of the scenes"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("data/demo-sam2"), help="folder of scenes and checkpoint"
    )
    parser.add_argument("--start", type=Path, help="weights to begin with instead of random ones")
    parser.add_argument("--out", type=Path, default=BUNDLED)
    parser.add_argument("--check-minutes", type=float, default=8)
    return Plan(**vars(parser.parse_args()))


def main() -> None:
    if "GLIBC_TUNABLES" not in os.environ:
        os.execve(
            sys.executable, [sys.executable, *sys.argv], {**os.environ, "GLIBC_TUNABLES": MALLOC}
        )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    plan = parse_plan()
    plan.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(plan.threads)
    train(plan, make_scenes(plan))


if __name__ == "__main__":
    main()
