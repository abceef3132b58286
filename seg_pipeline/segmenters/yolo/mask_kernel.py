"""The Triton kernel of `device_masks`. Importing this needs Triton, and a launch a C compiler."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl

from seg_pipeline.segmenters.yolo.device_masks import BLOCK, DevicePlan


# Triton would compile it anew, for a second or two, for each way in which these may be multiples of
# 16. That is sixteen ways, which come and go with the number of blocks and the shape of a picture.
@triton.jit(
    do_not_specialize=["grid_height", "grid_width"],
    do_not_specialize_on_alignment=["logits", "below", "weights"],
)
def pack_masks(
    logits,
    fields,
    block_masks,
    below,
    weights,
    packed,
    bounds,
    grid_height,
    grid_width,
    BLOCK: tl.constexpr,
):
    """Packs one block of one mask, and widens the mask's bounds to what is set in it."""
    block = tl.program_id(0)
    mask = tl.load(block_masks + block)
    field = fields + mask * 8
    left = tl.load(field)
    top = tl.load(field + 1)
    width = tl.load(field + 2)
    height = tl.load(field + 3)
    row_bytes = tl.load(field + 4)
    first = tl.load(field + 5)
    columns = tl.load(field + 6)
    rows = tl.load(field + 7)
    byte = (block - first) * BLOCK + tl.arange(0, BLOCK)
    row = byte // row_bytes
    column = (byte % row_bytes) * 8
    in_box = row < height
    at_y = rows + top + tl.where(in_box, row, 0)
    above = tl.load(below + at_y)
    down = tl.load(weights + at_y)
    under = tl.minimum(above + 1, grid_height - 1)
    grid = logits + mask.to(tl.int64) * grid_height * grid_width
    first_row = grid + above * grid_width
    second_row = grid + under * grid_width
    bits = tl.zeros((BLOCK,), dtype=tl.int32)
    least = tl.zeros((BLOCK,), dtype=tl.int32) + 1073741824
    most = tl.zeros((BLOCK,), dtype=tl.int32) - 1
    for bit in tl.static_range(8):
        x = column + bit
        valid = in_box & (x < width)
        at_x = columns + left + tl.where(valid, x, 0)
        before = tl.load(below + at_x)
        across = tl.load(weights + at_x)
        after = tl.minimum(before + 1, grid_width - 1)
        a = tl.load(first_row + before)
        b = tl.load(first_row + after)
        c = tl.load(second_row + before)
        d = tl.load(second_row + after)
        upper = (b - a) * across + a
        lower = (d - c) * across + c
        value = (lower - upper) * down + upper
        is_set = valid & (value > 0)
        bits += tl.where(is_set, 128 >> bit, 0)
        least = tl.minimum(least, tl.where(is_set, x, 1073741824))
        most = tl.maximum(most, tl.where(is_set, x, -1))
    tl.store(packed + block * BLOCK + tl.arange(0, BLOCK), bits.to(tl.uint8))
    last = tl.max(most, 0)
    if last >= 0:
        bound = bounds + mask * 4
        tl.atomic_min(bound, tl.min(least, 0))
        tl.atomic_min(bound + 1, tl.min(tl.where(bits > 0, row, 1073741824), 0))
        tl.atomic_max(bound + 2, last)
        tl.atomic_max(bound + 3, tl.max(tl.where(bits > 0, row, -1), 0))


def kernel_pack(
    logits: torch.Tensor, plan: DevicePlan, packed: torch.Tensor, bounds: torch.Tensor
) -> None:
    """Packs by the kernel. A product and a sum are rounded one by one, as numpy does it."""
    pack_masks[(len(plan.block_masks),)](
        logits,
        plan.fields,
        plan.block_masks,
        plan.below,
        plan.weights,
        packed,
        bounds,
        logits.shape[1],
        logits.shape[2],
        BLOCK=BLOCK,
        enable_fp_fusion=False,
    )
