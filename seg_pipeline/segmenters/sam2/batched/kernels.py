"""Triton's kernels: they read small logits, and never write a mask of the picture's size.

Pixels are interpolated as `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`
does it. The module needs Triton; `measures.py` and `packing.py` do without.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from seg_pipeline.segmenters.sam2.batched.measures import Ask, Measures
from seg_pipeline.segmenters.sam2.batched.packing import Windows, row_bytes
from seg_pipeline.segmenters.sam2.batched.preprocessing import upload

ROWS, COLUMNS = 64, 64
"""The pixels of a tile, one program each."""

NEAR = (32, 128)
"""Positions along a side that a program may look at before it computes any pixel.

There are two numbers, so that few kernels have to be compiled.
"""

BYTES = 8
"""Bytes of packed pixels, along a row, that one program writes."""

SAFE = 1e-4
"""Interpolation rounds, so corners this near to a threshold decide nothing for all pixels."""

FAR = tl.constexpr(2**30)


def measure_masks(ask: Ask) -> Measures:
    """Counts and boxes of all wanted masks, in one launch."""
    masks, small, _ = ask.logits.shape
    height, width = ask.size
    measures = torch.zeros(masks, 8, dtype=torch.int32, device=ask.logits.device)
    measures[:, 3:5] = FAR.value
    measures[:, 5:7] = -1
    rows, columns = _near(ROWS, small, height), _near(COLUMNS, small, width)
    grid = (masks, triton.cdiv(height, ROWS), triton.cdiv(width, COLUMNS))
    _measure[grid](
        ask.logits.contiguous(),
        ask.wanted.to(torch.uint8),
        measures,
        small,
        height,
        width,
        small / height,
        small / width,
        *map(float, ask.thresholds),
        safe=SAFE * (1 + max(map(abs, ask.thresholds))),
        tile_rows=ROWS,
        tile_columns=COLUMNS,
        near_rows=rows or 1,
        near_columns=columns or 1,
        tested=bool(rows and columns),
    )
    boxes = measures[:, 3:7] * (measures[:, 1:2] > 0)
    return Measures(measures[:, :3], boxes)


def _near(pixels: int, small: int, large: int) -> int:
    """How many positions the pixels of a tile may lie between; 0 if that is too many to look at."""
    needed = pixels * small // large + 3
    return next((near for near in NEAR if near >= needed), 0)


def pack_masks(windows: Windows) -> Tensor:
    """The bits of all masks inside their boxes, in one launch."""
    masks, small, _ = windows.logits.shape
    device = windows.logits.device
    packed = torch.empty(windows.bytes, dtype=torch.uint8, device=device)
    grid = (
        masks,
        triton.cdiv(max(box.height for box in windows.boxes), ROWS),
        triton.cdiv(max(row_bytes(box) for box in windows.boxes), BYTES),
    )
    _pack[grid](
        windows.logits.contiguous(),
        upload(windows.places(), device),
        packed,
        small,
        small / windows.size[0],
        small / windows.size[1],
        float(windows.threshold),
        tile_rows=ROWS,
        tile_bytes=BYTES,
    )
    return packed


@triton.jit
def _between(at, scale, small):
    """The positions before and after pixels `at`, and the share of the way."""
    where = tl.maximum((at.to(tl.float32) + 0.5) * scale - 0.5, 0.0)
    first = tl.minimum(where.to(tl.int32), small - 1)
    return first, tl.minimum(first + 1, small - 1), where - first.to(tl.float32)


@triton.jit
def _pixels(logits, y, x, small, scale_y, scale_x):
    """The interpolated logits of rows `y` and columns `x`."""
    top, bottom, down = _between(y, scale_y, small)
    left, right, along = _between(x, scale_x, small)
    above, below = logits + (top * small)[:, None], logits + (bottom * small)[:, None]
    left, right = left[None, :], right[None, :]
    down, along = down[:, None], along[None, :]
    upper = (1 - along) * tl.load(above + left).to(tl.float32)
    upper += along * tl.load(above + right).to(tl.float32)
    lower = (1 - along) * tl.load(below + left).to(tl.float32)
    lower += along * tl.load(below + right).to(tl.float32)
    return (1 - down) * upper + down * lower


@triton.jit
def _extremes(
    logits, y0, x0, y1, x1, small, scale_y, scale_x,
    near_rows: tl.constexpr, near_columns: tl.constexpr,
):  # fmt: skip
    """The least and the greatest of the positions that the pixels of a tile lie between.

    What is no finite number counts as the least and as the greatest: the pixels then decide.
    """
    top, _, _ = _between(y0, scale_y, small)
    left, _, _ = _between(x0, scale_x, small)
    _, bottom, _ = _between(y1, scale_y, small)
    _, right, _ = _between(x1, scale_x, small)
    y, x = top + tl.arange(0, near_rows), left + tl.arange(0, near_columns)
    inside = (y <= bottom)[:, None] & (x <= right)[None, :]
    near = tl.load(logits + (y * small)[:, None] + x[None, :], mask=inside, other=0.0)
    near = near.to(tl.float32)
    odd = (tl.abs(near) < 1e30) == 0
    least = tl.where(inside, tl.where(odd, -1e30, near), 1e30)
    greatest = tl.where(inside, tl.where(odd, 1e30, near), -1e30)
    return tl.min(tl.min(least, 1), 0), tl.max(tl.max(greatest, 1), 0)


@triton.jit
def _add_whole(measures, y0, x0, y1, x1):
    """A tile all of whose pixels are over all thresholds."""
    pixels = (y1 - y0 + 1) * (x1 - x0 + 1)
    for threshold in tl.static_range(3):
        tl.atomic_add(measures + threshold, pixels)
    tl.atomic_min(measures + 3, x0)
    tl.atomic_min(measures + 4, y0)
    tl.atomic_max(measures + 5, x1)
    tl.atomic_max(measures + 6, y1)


@triton.jit
def _count(over):
    return tl.sum(tl.sum(over.to(tl.int32), 1), 0)


@triton.jit
def _add_pixels(measures, pixels, y, x, inside, low, middle, high):
    """A tile pixel by pixel."""
    over = (pixels > middle) & inside
    count = _count(over)
    tl.atomic_add(measures, _count((pixels > low) & inside))
    if count > 0:
        tl.atomic_add(measures + 1, count)
        tl.atomic_add(measures + 2, _count((pixels > high) & inside))
        rows, columns = tl.max(over.to(tl.int32), 1) > 0, tl.max(over.to(tl.int32), 0) > 0
        tl.atomic_min(measures + 3, tl.min(tl.where(columns, x, FAR), 0))
        tl.atomic_min(measures + 4, tl.min(tl.where(rows, y, FAR), 0))
        tl.atomic_max(measures + 5, tl.max(tl.where(columns, x, -1), 0))
        tl.atomic_max(measures + 6, tl.max(tl.where(rows, y, -1), 0))


@triton.jit(do_not_specialize=["height", "width"])
def _measure(
    logits, wanted, measures, small, height, width, scale_y, scale_x, low, middle, high, safe,
    tile_rows: tl.constexpr, tile_columns: tl.constexpr,
    near_rows: tl.constexpr, near_columns: tl.constexpr, tested: tl.constexpr,
):  # fmt: skip
    """One tile of one mask. Masks may lie further apart than 2**31 logits."""
    mask = tl.program_id(0).to(tl.int64)
    if tl.load(wanted + mask) != 0:
        logits += mask * small * small
        measures += mask * 8
        y0, x0 = tl.program_id(1) * tile_rows, tl.program_id(2) * tile_columns
        y1 = tl.minimum(y0 + tile_rows, height) - 1
        x1 = tl.minimum(x0 + tile_columns, width) - 1
        least, greatest = -1e30, 1e30
        if tested:
            least, greatest = _extremes(
                logits, y0, x0, y1, x1, small, scale_y, scale_x, near_rows, near_columns
            )
        if least > high + safe:
            _add_whole(measures, y0, x0, y1, x1)
        elif greatest > low - safe:
            y, x = y0 + tl.arange(0, tile_rows), x0 + tl.arange(0, tile_columns)
            inside = (y <= y1)[:, None] & (x <= x1)[None, :]
            pixels = _pixels(logits, y, x, small, scale_y, scale_x)
            _add_pixels(measures, pixels, y, x, inside, low, middle, high)


@triton.jit
def _pack(
    logits, places, packed, small, scale_y, scale_x, threshold,
    tile_rows: tl.constexpr, tile_bytes: tl.constexpr,
):  # fmt: skip
    """One tile of one box. A row begins at a byte; its first pixel is the byte's highest bit."""
    mask = tl.program_id(0).to(tl.int64)
    places += mask * 5
    left, top = tl.load(places).to(tl.int32), tl.load(places + 1).to(tl.int32)
    right, bottom = tl.load(places + 2).to(tl.int32), tl.load(places + 3).to(tl.int32)
    row_bytes = (right - left + 8) // 8
    y = top + tl.program_id(1) * tile_rows + tl.arange(0, tile_rows)
    byte = tl.program_id(2) * tile_bytes + tl.arange(0, tile_bytes)
    first = tl.program_id(2) * tile_bytes
    if (top + tl.program_id(1) * tile_rows <= bottom) & (first < row_bytes):
        x = left + first * 8 + tl.arange(0, tile_bytes * 8)
        pixels = _pixels(logits + mask * small * small, y, x, small, scale_y, scale_x)
        set_bits = ((pixels > threshold) & (x <= right)[None, :]).to(tl.int32)
        bits = set_bits * (128 >> (tl.arange(0, tile_bytes * 8) % 8))[None, :]
        values = tl.sum(tl.reshape(bits, (tile_rows, tile_bytes, 8)), 2)
        place = tl.load(places + 4) + ((y - top).to(tl.int64) * row_bytes)[:, None]
        inside = (y <= bottom)[:, None] & (byte < row_bytes)[None, :]
        tl.store(packed + place + byte[None, :], values.to(tl.uint8), mask=inside)
