"""The kernel by Triton's interpreter, and compiled for a card that need not be there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

pytest.importorskip("triton", reason="torch brings Triton where it can compute on a GPU")

INTERPRETED = """
from seg_pipeline.segmenters.yolo.device_masks import DeviceMasks
from seg_pipeline.segmenters.yolo.mask_kernel import kernel_pack
from seg_pipeline.segmenters.yolo.masks import host_masks
from seg_pipeline_tests.segmenters.yolo.test_device_masks import assert_the_same, random_case
masks = DeviceMasks("cpu", kernel_pack)
sizes = ([(200, 150), (100, 75)], [5, 3]), ([(161, 97)], [4]), ([(5, 4)], [2])
for sizes_wh, counts in sizes:
    case = random_case(sizes_wh, counts, size=160)
    print(assert_the_same(masks(*case), host_masks(*case)))
assert masks.notes == {"masks": "triton"}, masks.notes
"""

COMPILED = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from seg_pipeline.segmenters.yolo.mask_kernel import pack_masks
kinds = {"logits": "*fp32", "weights": "*fp32", "packed": "*u8", "BLOCK": "constexpr"}
kinds |= {"grid_height": "i32", "grid_width": "i32"}
names = pack_masks.arg_names
signature = {name: kinds.get(name, "*i32") for name in names}
source = ASTSource(pack_masks, signature, {(names.index("BLOCK"),): 256})
made = compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False})
print(len(made.asm["cubin"]), "fma.rn.f32" in made.asm["ptx"])
"""

KINDS = """
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import create_function_from_signature
from seg_pipeline.segmenters.yolo.mask_kernel import pack_masks
backend = make_backend(GPUTarget("cuda", 90, 32))
bound = create_function_from_signature(pack_masks.signature, pack_masks.params, backend)
kinds = set()
for blocks, (height, width) in ((1, (96, 160)), (2, (88, 160)), (3, (160, 90)), (4, (24, 24))):
    given = torch.empty(64, dtype=torch.int32)
    weights = given[blocks:].view(torch.float32)
    arguments = [given.float()[blocks:], given, given, given[blocks:], weights]
    arguments += [torch.empty(64, dtype=torch.uint8), given, height, width]
    _, kind, _ = bound(*arguments, BLOCK=256)
    kinds.add(str(kind))
print(len(kinds))
"""


def run(script: str, folder: Path, **variables: str) -> str:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(folder), **variables}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_kernels_masks_have_the_hosts_bits(tmp_path: Path) -> None:
    counts = [int(line) for line in run(INTERPRETED, tmp_path, TRITON_INTERPRET="1").split()]
    assert len(counts) == 3
    assert sum(counts) > 8


def test_the_kernel_compiles_for_a_card_and_rounds_each_step(tmp_path: Path) -> None:
    """A product and a sum in one would round once, and a bit here and there would differ."""
    size, is_fused = run(COMPILED, tmp_path).split()
    assert int(size) > 1000
    assert is_fused == "False"


def test_one_kernel_is_for_pictures_of_all_shapes_and_any_number_of_masks(tmp_path: Path) -> None:
    """Each further one would be compiled while a job waits for it."""
    assert run(KINDS, tmp_path).split() == ["1"]
