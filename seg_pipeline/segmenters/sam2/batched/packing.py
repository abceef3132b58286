"""The masks that are left: enlarged, thresholded, cut to their boxes and packed on the device.

A bit a pixel goes to the host, where threads unpack them.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate, pad

from seg_pipeline.domain import BoolMask, Box
from seg_pipeline.segmenters.devices import kernel_or_plain

THREADS = 8
"""Threads that unpack bits; numpy does it without the interpreter's lock."""


@dataclass(frozen=True)
class Windows:
    """Masks, and the boxes of the picture in which their pixels are wanted."""

    logits: Tensor  # (k, s, s), contiguous
    boxes: Sequence[Box]
    size: tuple[int, int]  # height and width of the picture
    threshold: float

    @property
    def offsets(self) -> list[int]:
        """Where the bytes of each mask begin, and where the last ones end."""
        return [0, *accumulate(box.height * row_bytes(box) for box in self.boxes)]

    @property
    def bytes(self) -> int:
        """The bytes of all masks."""
        return self.offsets[-1]

    def places(self) -> NDArray[np.int64]:
        """Of each mask the box, as xyxy with the last pixel included, and the offset: `(k, 5)`."""
        return np.array(
            [
                (box.x, box.y, box.x + box.width - 1, box.y + box.height - 1, offset)
                for box, offset in zip(self.boxes, self.offsets, strict=False)
            ],
            dtype=np.int64,
        ).reshape(-1, 5)


Pack = Callable[[Windows], Tensor]
"""The bits of one or more masks, row after row, `(bytes,)` uint8. Each row begins at a byte."""


def row_bytes(box: Box) -> int:
    """The bytes that one row of a box takes."""
    return -(-box.width // 8)


def pack_plainly(windows: Windows) -> Tensor:
    """Enlarges one mask at a time, with torch's own interpolation."""
    packed = [
        _pack_one(logits, box, windows)
        for logits, box in zip(windows.logits, windows.boxes, strict=True)
    ]
    return torch.cat(packed)


def _pack_one(logits: Tensor, box: Box, windows: Windows) -> Tensor:
    large = interpolate(logits.float()[None, None], windows.size, mode="bilinear")[0, 0]
    bits = (large[box.slices] > windows.threshold).to(torch.uint8)
    bits = pad(bits, (0, 8 * row_bytes(box) - box.width)).view(-1, 8)
    return torch.stack([bits[:, place] << (7 - place) for place in range(8)]).sum(
        0, dtype=torch.uint8
    )


def pack_for(device: torch.device) -> Pack:
    """The kernel where it runs and agrees with torch, else torch alone; says why in the log."""

    def kernel() -> Pack:
        from seg_pipeline.segmenters.sam2.batched.kernels import pack_masks

        return pack_masks

    plain: Pack = pack_plainly
    return kernel_or_plain(device, kernel, partial(_check, device=device), plain, "packed")


def _check(pack: Pack, device: torch.device) -> None:
    """Raises ValueError if the bits of random masks are not torch's.

    A byte may differ where a logit is within rounding of the threshold.
    """
    logits = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0)).to(device)
    windows = Windows(logits, [Box(3, 5, 290, 140), Box(0, 149, 1, 1)], (150, 333), 0.0)
    off = int((pack(windows) != pack_plainly(windows)).sum())
    if off > 2:
        raise ValueError(f"it is off by {off} bytes")


class Download:
    """Packed bits on their way to the host."""

    def __init__(self, windows: Windows, pack: Pack) -> None:
        self._boxes, self._offsets = windows.boxes, windows.offsets
        if not windows.boxes:
            return
        on_device = pack(windows)
        if on_device.device.type == "cuda":
            self._packed = torch.empty(on_device.shape, dtype=torch.uint8, pin_memory=True)
            self._packed.copy_(on_device, non_blocking=True)
        else:
            self._packed = on_device

    def masks(self) -> list[BoolMask]:
        """The pixels inside each box, `(box.height, box.width) bool`.

        Call it once the device has done what was asked of it before.
        """
        if not self._boxes:
            return []
        unpack = partial(_unpack, self._packed.numpy())
        return list(_threads().map(unpack, self._boxes, self._offsets[:-1]))


@cache
def _threads() -> ThreadPoolExecutor:
    """Of the whole process: to start them takes about as long as small masks."""
    return ThreadPoolExecutor(THREADS, "unpack")


def _unpack(packed: NDArray[np.uint8], box: Box, offset: int) -> BoolMask:
    rows = packed[offset : offset + box.height * row_bytes(box)].reshape(box.height, -1)
    return np.unpackbits(rows, axis=1, count=box.width).view(np.bool_)
