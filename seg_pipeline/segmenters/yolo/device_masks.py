"""Masks of a batch of detections, made on a GPU: interpolated, thresholded and packed there.

Only the pixels inside the boxes are computed, eight a byte, and copied to the host at once. Each
step rounds as `masks.decode_mask` does, so that equal logits give equal bits.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seg_pipeline.domain import Box, Mask
from seg_pipeline.segmenters import Notes
from seg_pipeline.segmenters.devices import first_line, is_out_of_memory, raise_if_broken
from seg_pipeline.segmenters.yolo.letterbox import Letterbox

BLOCK = 256
"""Packed bytes that are made together. Each mask begins at a multiple of it."""

BLOCKS_AT_ONCE = 4096
"""So many go through torch's operators at once: 8 million pixels, in some 300 MB."""

MOST_BLOCKS = 2**20
"""So many are held on the device at once: 256 MB. More masks come in several turns."""

NOTHING = 2**30

LEFT, TOP, WIDTH, HEIGHT, ROW_BYTES, FIRST_BLOCK, COLUMNS, ROWS = range(8)
"""The columns of `MaskPlan.fields`. The last two say where a picture's positions begin."""

logger = logging.getLogger(__name__)

Integers = NDArray[np.int32]


@dataclass(frozen=True)
class MaskPlan:
    """What is to be made: `fields` `(n, 8)` of each mask, and the mask that each block is of.

    `below` and `weights` are the positions of all columns and rows of the pictures on the grid of
    prototypes: the index below, and how far it is to the next one.
    """

    fields: Integers
    block_masks: Integers
    below: Integers
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class DevicePlan:
    """The arrays of a `MaskPlan` on the device."""

    fields: torch.Tensor
    block_masks: torch.Tensor
    below: torch.Tensor
    weights: torch.Tensor


Pack = Callable[[torch.Tensor, DevicePlan, torch.Tensor, torch.Tensor], None]
"""Writes packed bytes `(blocks * BLOCK,)` and bounds `(n, 4)` of logits `(n, h, w)`.

Bounds are the least column and row that are set inside the box, and the greatest. They come filled
with what an empty mask has.
"""


class DeviceMasks:
    """A `MaskMaker` on a device: by a Triton kernel, or by torch's operators where that fails."""

    def __init__(self, device: str, pack: Pack | None = None) -> None:
        self._device = torch.device(device)
        self._pack = pack or (triton_pack() if self._device.type == "cuda" else None) or torch_pack
        self.notes: Notes = {"masks": _name_of(self._pack)}

    def __call__(
        self,
        boxes: Sequence[NDArray[np.float32]],
        coefficients: Sequence[torch.Tensor],
        prototypes: torch.Tensor,
        letterboxes: Sequence[Letterbox],
    ) -> list[list[Mask | None]]:
        """As `MaskMaker` has it."""
        counts = [len(each) for each in boxes]
        logits = batch_logits(coefficients, prototypes)
        windows = np.concatenate([np.ceil(each).astype(np.int32) for each in boxes])
        pictures = np.repeat(np.arange(len(boxes)), counts)
        made: list[Mask | None] = []
        for turn in _turns(windows):
            plan = make_plan(windows[turn], pictures[turn], letterboxes, logits.shape[1:])
            packed, bounds = self._packed(logits[turn], plan)
            sizes = [letterboxes[index].picture_wh for index in pictures[turn]]
            made += unpack(plan, packed, bounds, sizes)
        ends = [*accumulate(counts)]
        return [made[end - count : end] for end, count in zip(ends, counts, strict=True)]

    def _packed(self, logits: torch.Tensor, plan: MaskPlan) -> tuple[NDArray[np.uint8], Integers]:
        size, count = len(plan.block_masks) * BLOCK, len(plan.fields)
        made = torch.empty(size + 16 * count, dtype=torch.uint8, device=self._device)
        bounds = made[size:].view(torch.int32).view(count, 4)
        bounds[:, :2].fill_(NOTHING)
        bounds[:, 2:].fill_(-1)
        if size:
            self._fill(logits, _on_device(plan, self._device), made[:size], bounds)
        host = to_host(made)
        return host[:size], host[size:].view(np.int32).reshape(count, 4)

    def _fill(
        self, logits: torch.Tensor, plan: DevicePlan, packed: torch.Tensor, bounds: torch.Tensor
    ) -> None:
        try:
            self._pack(logits, plan, packed, bounds)
        except Exception as error:
            raise_if_broken(error)
            if self._pack is torch_pack or is_out_of_memory(error):
                raise
            self._pack = torch_pack
            self.notes["masks"] = f"torch: Triton failed: {first_line(error)}"
            logger.warning("masks are made without Triton, which fails here: %s", error)
            torch_pack(logits, plan, packed, bounds)


def batch_logits(coefficients: Sequence[torch.Tensor], prototypes: torch.Tensor) -> torch.Tensor:
    """Logits `(n, h, w)` of all detections in order: a product for each picture."""
    height, width = prototypes.shape[2:]
    flat = prototypes.float().flatten(2)
    products = [weights.float() @ each for weights, each in zip(coefficients, flat, strict=True)]
    return torch.cat(products).view(-1, height, width)


def _turns(windows: Integers) -> Iterator[slice]:
    """Runs of masks that fit on the device together."""
    start, held = 0, 0
    for index, blocks in enumerate(_blocks(windows)):
        if index > start and held + blocks > MOST_BLOCKS:
            yield slice(start, index)
            start, held = index, 0
        held += int(blocks)
    if start < len(windows):
        yield slice(start, len(windows))


def _sides(windows: Integers) -> Integers:
    """Widths and heights `(n, 2)` of xyxy; nothing has none of either."""
    sides = windows[:, 2:] - windows[:, :2]
    return np.where((sides > 0).all(axis=1, keepdims=True), sides, 0)


def _blocks(windows: Integers) -> Integers:
    sides = _sides(windows)
    return -(-(-(-sides[:, 0] // 8) * sides[:, 1]) // BLOCK)


def make_plan(
    windows: Integers,
    pictures: NDArray[np.intp],
    letterboxes: Sequence[Letterbox],
    grid_hw: Sequence[int],
) -> MaskPlan:
    """The plan for windows `(n, 4)` xyxy, each in one of the pictures."""
    blocks, sides = _blocks(windows), _sides(windows)
    tables = [positions(letterbox, int(grid_hw[0]), int(grid_hw[1])) for letterbox in letterboxes]
    starts = np.cumsum([0, *(len(below) for below, _ in tables)])[:-1]
    widths = np.array([letterbox.picture_wh[0] for letterbox in letterboxes])
    fields = np.empty((len(windows), 8), dtype=np.int32)
    fields[:, [LEFT, TOP]], fields[:, [WIDTH, HEIGHT]] = windows[:, :2], sides
    fields[:, ROW_BYTES] = -(-sides[:, 0] // 8)
    fields[:, FIRST_BLOCK] = np.cumsum(blocks) - blocks
    fields[:, COLUMNS] = starts[pictures]
    fields[:, ROWS] = starts[pictures] + widths[pictures]
    return MaskPlan(
        fields,
        np.repeat(np.arange(len(windows), dtype=np.int32), blocks),
        np.concatenate([below for below, _ in tables]),
        np.concatenate([weights for _, weights in tables]),
    )


@lru_cache(maxsize=32)
def positions(
    letterbox: Letterbox, height: int, width: int
) -> tuple[Integers, NDArray[np.float32]]:
    """Where a picture's columns, and then its rows, lie on a grid of that height and width."""
    columns, rows = letterbox.prototype_positions(
        *(np.arange(side) + 0.5 for side in letterbox.picture_wh)
    )
    at = np.concatenate([np.clip(columns, 0, width - 1), np.clip(rows, 0, height - 1)])
    below = at.astype(np.int32)
    return below, (at - below).astype(np.float32)


def _on_device(plan: MaskPlan, device: torch.device) -> DevicePlan:
    """Copies the plan to the device at once, which the host does not wait for."""
    parts = [plan.fields.ravel(), plan.block_masks, plan.below, plan.weights.view(np.int32)]
    host = empty_on_host(sum(map(len, parts)), torch.int32, device)
    np.concatenate(parts, out=host.numpy())
    fields, blocks, below, weights = host.to(device, non_blocking=True).split([*map(len, parts)])
    return DevicePlan(fields.view(-1, 8), blocks, below, weights.view(torch.float32))


def empty_on_host(
    shape: int | Sequence[int], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """A tensor on the host; pinned, if a GPU is to read or write it."""
    size = [shape] if isinstance(shape, int) else list(shape)
    return torch.empty(size, dtype=dtype, pin_memory=device.type == "cuda")


def to_host(tensor: torch.Tensor) -> NDArray[Any]:
    """The tensor as an array. For a GPU's this is the one wait for all that comes before it."""
    if tensor.device.type != "cuda":
        return np.asarray(tensor.numpy())
    host = empty_on_host(tensor.shape, tensor.dtype, tensor.device)
    host.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return np.asarray(host.numpy())


def torch_pack(
    logits: torch.Tensor, plan: DevicePlan, packed: torch.Tensor, bounds: torch.Tensor
) -> None:
    """Packs by torch's operators alone."""
    for start in range(0, len(plan.block_masks), BLOCKS_AT_ONCE):
        some = plan.block_masks[start : start + BLOCKS_AT_ONCE]
        bits, columns, rows = _bits(logits, replace(plan, block_masks=some), start)
        powers = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=bits.device)
        bytes_ = (bits * powers).sum(-1, dtype=torch.uint8).flatten()
        packed[start * BLOCK : start * BLOCK + len(bytes_)] = bytes_
        for side, along in enumerate((columns, rows)):
            _reach(bounds[:, side], some, torch.where(bits, along, NOTHING).amin((1, 2)), "amin")
            _reach(bounds[:, side + 2], some, torch.where(bits, along, -1).amax((1, 2)), "amax")


def _reach(bound: torch.Tensor, masks: torch.Tensor, values: torch.Tensor, reduce: str) -> None:
    bound.scatter_reduce_(0, masks.long(), values.to(bound.dtype), reduce)


def _bits(
    logits: torch.Tensor, plan: DevicePlan, first: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The bits `(blocks, BLOCK, 8)`, and column and row of each inside its box."""
    masks = plan.block_masks.long()
    blocks = torch.arange(first, first + len(masks), device=masks.device)
    fields = plan.fields[masks].long()[..., None, None].unbind(1)
    inside = torch.arange(BLOCK, device=masks.device)[:, None]
    byte = (blocks[:, None, None] - fields[FIRST_BLOCK]) * BLOCK + inside
    rows = byte // fields[ROW_BYTES]
    columns = byte % fields[ROW_BYTES] * 8 + torch.arange(8, device=masks.device)
    valid = (rows < fields[HEIGHT]) & (columns < fields[WIDTH])
    at_x = (fields[COLUMNS] + fields[LEFT] + columns).clamp_(max=len(plan.below) - 1)
    at_y = (fields[ROWS] + fields[TOP] + rows).clamp_(max=len(plan.below) - 1)
    values = _interpolated(logits, masks[:, None, None], plan, at_x, at_y)
    return (values > 0).logical_and_(valid), columns, rows


def _interpolated(
    logits: torch.Tensor,
    masks: torch.Tensor,
    plan: DevicePlan,
    at_x: torch.Tensor,
    at_y: torch.Tensor,
) -> torch.Tensor:
    height, width = logits.shape[1:]
    left, top = plan.below[at_x].long(), plan.below[at_y].long()
    # Beyond a box, which is cut off later, a position may be another picture's.
    left, top = left.clamp_(max=width - 1), top.clamp_(max=height - 1)
    right, bottom = (left + 1).clamp_(max=width - 1), (top + 1).clamp_(max=height - 1)
    flat, across, down = logits.flatten(), plan.weights[at_x], plan.weights[at_y]

    def along(row: torch.Tensor) -> torch.Tensor:
        begin = (masks * height + row) * width
        low = flat[begin + left]
        return (flat[begin + right] - low) * across + low

    above = along(top)
    return (along(bottom) - above) * down + above


def triton_pack() -> Pack | None:
    """The kernel; None where Triton is not installed."""
    try:
        from seg_pipeline.segmenters.yolo.mask_kernel import kernel_pack
    except ImportError:
        return None
    return kernel_pack


def _name_of(pack: Pack) -> str:
    return "torch" if pack is torch_pack else "triton"


def unpack(
    plan: MaskPlan,
    packed: NDArray[np.uint8],
    bounds: Integers,
    sizes_wh: Sequence[tuple[int, int]],
) -> list[Mask | None]:
    """The masks of packed bytes, cut to what is set; None where nothing is."""
    return [
        _unpacked(fields, packed, bound, size_wh)
        for fields, bound, size_wh in zip(
            plan.fields.tolist(), bounds.tolist(), sizes_wh, strict=True
        )
    ]


def _unpacked(
    fields: Sequence[int],
    packed: NDArray[np.uint8],
    bound: Sequence[int],
    size_wh: tuple[int, int],
) -> Mask | None:
    left, top, right, bottom = bound
    if right < 0:
        return None
    begin, row_bytes = fields[FIRST_BLOCK] * BLOCK, fields[ROW_BYTES]
    rows = packed[begin + top * row_bytes : begin + (bottom + 1) * row_bytes]
    across = rows.reshape(-1, row_bytes)[:, left // 8 : right // 8 + 1]
    window = np.unpackbits(across, axis=1)[:, left % 8 : left % 8 + right - left + 1]
    bits = np.ascontiguousarray(window).view(np.bool_)
    box = Box(fields[LEFT] + left, fields[TOP] + top, right - left + 1, bottom - top + 1)
    return Mask(size_wh, box, bits)
