"""Triton's kernels, interpreted on the CPU, against their twins in torch."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seg_pipeline.domain import Box
from seg_pipeline.segmenters.sam2.batched.measures import Ask, measure_plainly
from seg_pipeline.segmenters.sam2.batched.packing import Windows, pack_plainly

pytest.importorskip("triton", reason="torch brings Triton on Linux alone")
pytestmark = pytest.mark.process

SMALL = 32
SIZES = {
    "whole tiles": (128, 192),
    "cut tiles": (101, 67),
    "one row": (1, 130),
    "one column": (130, 1),
    "one pixel": (1, 1),
    "smaller than the logits": (20, 200),
    "many tiles for few logits": (200, 190),
}

ODD = ("cut tiles", "one column", "smaller than the logits")
"""The interpreter takes a tile in some ten milliseconds."""


def smooth(seed: int, masks: int = 3) -> Tensor:
    """Random masks with an inside and an outside, as networks make them."""
    random = torch.Generator().manual_seed(seed)
    coarse = 6 * torch.randn(1, masks, 5, 5, generator=random)
    return torch.nn.functional.interpolate(coarse, (SMALL, SMALL), mode="bicubic")[0]


def noise(seed: int) -> Tensor:
    return 2 * torch.randn(2, SMALL, SMALL, generator=torch.Generator().manual_seed(seed))


def odd_values() -> Tensor:
    """Masks all over and all under every threshold, at a threshold, and with odd numbers."""
    logits = torch.stack([torch.full((SMALL, SMALL), value) for value in (9.0, -9.0, 0.0, 1.0)])
    strange = torch.full((3, SMALL, SMALL), 9.0)
    strange[0, 5:9, 4] = torch.nan
    strange[1, :] = torch.nan
    strange[2, 3, 3], strange[2, 20, 7] = torch.inf, -torch.inf
    return torch.cat([logits, strange])


def ask(logits: Tensor, size: tuple[int, int], **changed: Any) -> Ask:
    wanted = torch.ones(len(logits), dtype=torch.bool)
    asked: dict[str, Any] = {"wanted": wanted, "thresholds": (-1.0, 0.0, 1.0), **changed}
    return Ask(logits, size=size, **asked)


def windows(logits: Tensor, size: tuple[int, int], threshold: float = 0.0) -> Windows:
    """The whole picture of the first mask, and parts of the others."""
    height, width = size
    boxes = [Box(0, 0, width, height), Box(width // 2, height // 3, width - width // 2, 1)]
    boxes.append(Box(width // 3, 0, 1, height))
    return Windows(logits[:3], boxes, size, threshold)


MEASURED = {
    **{f"smooth, {name}": ask(smooth(1), size) for name, size in SIZES.items()},
    **{f"noise, {name}": ask(noise(2), size) for name, size in SIZES.items()},
    **{f"odd values, {name}": ask(odd_values(), SIZES[name]) for name in ODD},
    "bf16": ask(smooth(3).bfloat16(), (150, 170)),
    "other thresholds": ask(smooth(4), (150, 170), thresholds=(-3.5, 1.5, 6.5)),
    "thresholds in whole numbers": ask(smooth(4), (70, 70), thresholds=(-1, 0, 1)),
    "thresholds that are one": ask(smooth(4), (70, 70), thresholds=(0.5, 0.5, 0.5)),
    "strides of its own": ask(smooth(5).transpose(1, 2), (90, 140)),
}
PACKED = {
    **{name: windows(smooth(6), size) for name, size in SIZES.items()},
    "bf16": windows(smooth(7).bfloat16(), (150, 170)),
    "another threshold": windows(smooth(8), (150, 170), threshold=2.5),
    "odd values": windows(odd_values()[4:], (150, 170)),
}
UNWANTED = ask(smooth(9), (150, 170), wanted=torch.tensor([True, False, True]))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What the kernels answer to all questions, by name."""
    path: Path = tmp_path_factory.mktemp("kernels") / "questions.pt"
    questions = [*MEASURED.values(), UNWANTED, *PACKED.values()]
    torch.save(questions, path)
    module = "seg_pipeline_tests.segmenters.sam2.batched.interpreted"
    subprocess.run(
        [sys.executable, "-m", module, str(path)],
        check=True,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )
    names = [*(f"measured {name}" for name in MEASURED), "unwanted"]
    names += [f"packed {name}" for name in PACKED]
    return dict(zip(names, torch.load(path, weights_only=False), strict=True))


@pytest.mark.parametrize("name", MEASURED)
def test_the_kernel_counts_and_boxes_as_torch_does(name: str, answers: Mapping[str, Any]) -> None:
    ours, theirs = answers[f"measured {name}"], measure_plainly(MEASURED[name])
    assert ours.counts.tolist() == theirs.counts.tolist()
    assert ours.boxes.tolist() == theirs.boxes.tolist()


def test_masks_that_nobody_wants_are_not_measured(answers: Mapping[str, Any]) -> None:
    """Most masks are dropped by their predicted IoU: they should cost nothing."""
    ours, theirs = answers["unwanted"], measure_plainly(UNWANTED)
    assert ours.counts[0].tolist() == theirs.counts[0].tolist()
    assert ours.counts[1].tolist() == [0, 0, 0] != theirs.counts[1].tolist()


@pytest.mark.parametrize("name", PACKED)
def test_the_kernel_packs_as_torch_does(name: str, answers: Mapping[str, Any]) -> None:
    ours, theirs = answers[f"packed {name}"], pack_plainly(PACKED[name])
    assert np.array_equal(ours.numpy(), theirs.numpy())


COMPILED = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from seg_pipeline.segmenters.sam2.batched import kernels
constants = {"tile_rows": 64, "tile_columns": 64, "near_rows": 128, "near_columns": 32}
constants |= {"tested": True, "tile_bytes": 8}
kinds = {"logits": "*bf16", "wanted": "*u8", "measures": "*i32", "places": "*i64", "packed": "*u8"}
kinds |= dict.fromkeys(("small", "height", "width"), "i32") | dict.fromkeys(constants, "constexpr")
for card in (75, 80, 90, 100):
    for kernel in (kernels._measure, kernels._pack):
        names = kernel.arg_names
        signature = {name: kinds.get(name, "fp32") for name in names}
        given = {(names.index(name),): constants[name] for name in names if name in constants}
        made = compile(ASTSource(kernel, signature, given), target=GPUTarget("cuda", card, 32))
        print(len(made.asm["cubin"]))
"""


def test_the_kernels_compile_for_cards_that_are_not_here(tmp_path: Path) -> None:
    """The interpreter runs what Triton's compiler may refuse."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILED],
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [int(size) > 1000 for size in done.stdout.split()] == 8 * [True]
