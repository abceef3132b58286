"""Masks as PNG, as run lengths and as numbers: points, overlap, order."""

import struct
import zlib
from collections.abc import Iterable, Sequence
from math import ceil, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg_pipeline.domain import BoolMask, Box, Mask, Segment
from seg_pipeline.errors import NotAnImage
from seg_pipeline.imaging.images import decode_alpha, verify
from seg_pipeline.imaging.pixels import strips
from seg_pipeline.imaging.run_lengths import windows_to_rle

# Colour 0 is black and wholly transparent, colour 1 black; tRNS may leave opaque colours out.
_PALETTE = bytes(6)
_TRANSPARENCY = b"\x00"

EXACT_PIXELS = 4_000_000
"""In larger boxes the interior point is approximate.

Exact distances take 9 bytes a pixel, and a second for a hundred megapixels.
"""


def encode_mask_png(mask: Mask) -> bytes:
    """The full-frame mask as PNG, opaque black inside and transparent black outside.

    It has one bit a pixel and a palette. Pillow would take 15 times as long for three times the
    bytes: zlib's RLE strategy suits rows of packed bits (PNG specification, third edition, 11.2 and
    11.3.1.1).
    """
    deflate = zlib.compressobj(level=6, strategy=zlib.Z_RLE)
    pixels = deflate.compress(_packed_rows(mask)) + deflate.flush()
    return _png_head(mask.resolution_wh) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def decode_mask_png(data: bytes, max_pixels: int) -> Mask:
    """The mask of a PNG: its pixels that are at least half opaque.

    A PNG of `encode_mask_png` is unpacked only inside the mask's box; any other goes through
    Pillow. Raises ImageError, also for an empty mask.
    """
    mask = _read_own_png(data, max_pixels)
    if mask is None:
        verify(data, max_pixels)
        alpha = decode_alpha(data, max_pixels)
        mask = Mask.from_full(np.greater_equal(alpha, 128, out=alpha.view(np.bool_)))
    if mask is None:
        raise NotAnImage("The mask is transparent everywhere; it needs at least one opaque pixel.")
    return mask


def center_point(mask: Mask) -> tuple[int, int]:
    """The centre of the mask's box as `(x, y)`; it may lie in a hole or beside the mask."""
    return mask.box.x + mask.box.width // 2, mask.box.y + mask.box.height // 2


def interior_point(mask: Mask) -> tuple[int, int]:
    """The pixel `(x, y)` of the mask that is farthest from its edge; the first of equals.

    For a box above `EXACT_PIXELS` it is the middle of a block of pixels that the mask fills. That
    is in the mask as well, and about as far from its edge.
    """
    block = ceil(sqrt(mask.bits.size / EXACT_PIXELS))
    x, y = _deepest(mask.bits) if block == 1 else _deep(mask.bits, block)
    return mask.box.x + x, mask.box.y + y


def contains(mask: Mask, point: tuple[int, int]) -> bool:
    """Whether the pixel `(x, y)` is set."""
    x, y = point[0] - mask.box.x, point[1] - mask.box.y
    return 0 <= x < mask.box.width and 0 <= y < mask.box.height and bool(mask.bits[y, x])


def mask_iou(one: Mask, other: Mask) -> float:
    """Intersection over union, 0 to 1, of two masks of the same picture."""
    if one.resolution_wh != other.resolution_wh:
        raise ValueError(
            f"masks of {one.resolution_wh} and {other.resolution_wh} are not of the same picture"
        )
    both = shared_area(one, other)
    return both / (one.area + other.area - both)


def shared_area(one: Mask, other: Mask) -> int:
    """The pixels set in both of two masks of the same picture."""
    box = common_box(one.box, other.box)
    return int(np.count_nonzero(mask_window(one, box) & mask_window(other, box))) if box else 0


def area_inside(mask: Mask, box: Box) -> int:
    """The pixels set inside the box."""
    inside = common_box(mask.box, box)
    return int(np.count_nonzero(mask_window(mask, inside))) if inside else 0


def mask_window(mask: Mask, box: Box) -> BoolMask:
    """The mask in a box of the picture, `(box.height, box.width) bool`.

    It is a view if the box lies inside the mask's own.
    """
    inside = common_box(mask.box, box)
    if inside is None:
        return np.zeros((box.height, box.width), dtype=np.bool_)
    bits = mask.bits[box_slices(inside, mask.box)]
    if inside == box:
        return bits
    window = np.zeros((box.height, box.width), dtype=np.bool_)
    window[box_slices(inside, box)] = bits
    return window


def common_box(*boxes: Box) -> Box | None:
    """The intersection of all the boxes; None if it is empty."""
    x, y = max(box.x for box in boxes), max(box.y for box in boxes)
    right, bottom = (
        min(box.x + box.width for box in boxes),
        min(box.y + box.height for box in boxes),
    )
    return Box(x, y, right - x, bottom - y) if x < right and y < bottom else None


def boxes_meet(ours: Sequence[Box], theirs: Sequence[Box]) -> BoolMask:
    """Whether each of our boxes overlaps each of theirs, `(ours, theirs) bool`."""
    (x0, y0, x1, y1), (u0, v0, u1, v1) = (
        np.array([(box.x, box.y, box.x + box.width, box.y + box.height) for box in boxes])
        .reshape(-1, 4)
        .T
        for boxes in (ours, theirs)
    )
    across = (x0[:, None] < u1) & (u0 < x1[:, None])
    down = (y0[:, None] < v1) & (v0 < y1[:, None])
    return across & down


def hull(boxes: Iterable[Box]) -> Box:
    """The smallest box around all of the boxes."""
    every = list(boxes)
    x, y = min(box.x for box in every), min(box.y for box in every)
    right, bottom = (
        max(box.x + box.width for box in every),
        max(box.y + box.height for box in every),
    )
    return Box(x, y, right - x, bottom - y)


def box_slices(inner: Box, outer: Box) -> tuple[slice, slice]:
    """Rows and columns of a box in an array that shows another box around it."""
    return Box(inner.x - outer.x, inner.y - outer.y, inner.width, inner.height).slices


def order_by_area(segments: Iterable[Segment]) -> list[Segment]:
    """The segments, largest first; equals stay in the given order."""
    return sorted(segments, key=lambda segment: -segment.mask.area)


def mask_to_rle(mask: Mask) -> dict[str, Any]:
    """COCO's compressed run lengths: `{"size": [height, width], "counts": text}`.

    The runs are counted inside the box: for a picture of 40 megapixels that takes a twelfth of the
    time.
    """
    return windows_to_rle(mask.resolution_wh, [((mask.box.x, mask.box.y), mask.bits)])


def _deepest(bits: BoolMask) -> tuple[int, int]:
    import cv2

    distances = cv2.distanceTransform(
        np.pad(bits, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    )
    y, x = np.unravel_index(int(distances.argmax()), distances.shape)
    return int(x) - 1, int(y) - 1


def _deep(bits: BoolMask, block: int) -> tuple[int, int]:
    """A pixel well inside the mask, found by blocks of `block` pixels a side.

    If the mask fills no block, the pixel is in its fullest row.
    """
    height, width = (side // block for side in bits.shape)
    blocks = np.asarray(
        bits[: height * block, : width * block].reshape(height, block, width, block).all((1, 3))
    )
    if blocks.any():
        x, y = _deepest(blocks)
        return x * block + block // 2, y * block + block // 2
    row = int(np.count_nonzero(bits, axis=1).argmax())
    x, _ = _deepest(bits[row : row + 1])
    return x, row


def _packed_rows(mask: Mask) -> bytes:
    """Each row's filter byte (0, none) and its bits, the leftmost highest."""
    width, height = mask.resolution_wh
    rows = np.zeros((height, 1 + (width + 7) // 8), dtype=np.uint8)
    first_byte, shift = divmod(mask.box.x, 8)
    inside = rows[mask.box.y : mask.box.y + mask.box.height, 1 + first_byte :]
    for strip in strips(*mask.bits.shape):
        packed = np.packbits(np.pad(mask.bits[strip], ((0, 0), (shift, 0))), axis=1)
        inside[strip, : packed.shape[1]] = packed
    return rows.tobytes()


def _png_head(resolution_wh: tuple[int, int]) -> bytes:
    header = struct.pack(">IIBBBBB", *resolution_wh, 1, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", _PALETTE), (b"tRNS", _TRANSPARENCY))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, body) for name, body in chunks)


def own_png_pixels(data: bytes, max_pixels: int) -> tuple[tuple[int, int], bytes] | None:
    """Size `(width, height)` and deflated rows of an intact PNG that `encode_mask_png` wrote.

    None for any other, and for one of more pixels.
    """
    width, height = struct.unpack(">II", data[16:24].ljust(8, b"\0"))
    head = _png_head((width, height))
    if width * height > max_pixels or not data.startswith(head):
        return None
    (length,) = struct.unpack(">I", data[len(head) : len(head) + 4].ljust(4, b"\0"))
    deflated = data[len(head) + 8 : len(head) + 8 + length]
    is_intact = data[len(head) :] == _chunk(b"IDAT", deflated) + _chunk(b"IEND", b"")
    return ((width, height), deflated) if is_intact else None


def _read_own_png(data: bytes, max_pixels: int) -> Mask | None:
    """The mask of an intact PNG that `encode_mask_png` wrote; None for any other."""
    found = own_png_pixels(data, max_pixels)
    if found is None:
        return None
    (width, height), deflated = found
    rows = _inflate(deflated, (height, 1 + (width + 7) // 8))
    return None if rows is None or rows[:, 0].any() else _unpacked(rows[:, 1:], (width, height))


def _inflate(deflated: bytes, shape: tuple[int, int]) -> NDArray[np.uint8] | None:
    size = shape[0] * shape[1]
    try:
        raw = zlib.decompressobj().decompress(deflated, size + 1)
    except zlib.error:
        return None
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape) if len(raw) == size else None


def _unpacked(packed: NDArray[np.uint8], resolution_wh: tuple[int, int]) -> Mask | None:
    """The mask of packed rows; only the bytes around its box are unpacked."""
    rows, columns = np.flatnonzero(packed.any(axis=1)), np.flatnonzero(packed.any(axis=0))
    if not rows.size:
        return None
    first, x = int(rows[0]), 8 * int(columns[0])
    window = packed[first : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
    bits = np.unpackbits(window, axis=1, count=min(8 * window.shape[1], resolution_wh[0] - x))
    return Mask.from_window(bits.view(np.bool_), (x, first), resolution_wh)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
