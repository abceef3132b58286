"""Masks as PNG, as run lengths and as numbers: points, overlap, order."""

import struct
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg_pipeline.domain import Mask, Segment
from seg_pipeline.errors import NotAnImage
from seg_pipeline.images import decode_alpha

# Colour 0 is black and wholly transparent, colour 1 black; tRNS may leave opaque colours out.
_PALETTE = bytes(6)
_TRANSPARENCY = b"\x00"


def encode_mask_png(mask: Mask) -> bytes:
    """The full-frame mask as PNG, opaque black inside and transparent black outside.

    One bit a pixel with a palette, written here because Pillow takes 15 times as long for three times the bytes:
    zlib's RLE strategy suits rows of packed bits (PNG specification, third edition, 11.2 and 11.3.1.1).
    """
    width, height = mask.resolution_wh
    header = struct.pack(">IIBBBBB", width, height, 1, 3, 0, 0, 0)
    deflate = zlib.compressobj(level=6, strategy=zlib.Z_RLE)
    pixels = deflate.compress(_packed_rows(mask)) + deflate.flush()
    chunks = ((b"IHDR", header), (b"PLTE", _PALETTE), (b"tRNS", _TRANSPARENCY), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, body) for name, body in chunks)


def decode_mask_png(data: bytes, max_pixels: int) -> Mask:
    """The mask of a PNG: what is at least half opaque. Raises ImageError, also for a mask without a pixel."""
    mask = Mask.from_full(decode_alpha(data, max_pixels) >= 128)
    if mask is None:
        raise NotAnImage("The mask is transparent everywhere; it needs at least one opaque pixel.")
    return mask


def center_point(mask: Mask) -> tuple[int, int]:
    """The centre of the mask's box as `(x, y)`; it may lie in a hole or beside the mask."""
    return mask.box.x + mask.box.width // 2, mask.box.y + mask.box.height // 2


def interior_point(mask: Mask) -> tuple[int, int]:
    """The pixel `(x, y)` of the mask that is farthest from its edge; the first in reading order among equals."""
    import cv2

    distances = cv2.distanceTransform(np.pad(mask.bits, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    y, x = np.unravel_index(int(distances.argmax()), distances.shape)
    return mask.box.x + int(x) - 1, mask.box.y + int(y) - 1


def contains(mask: Mask, point: tuple[int, int]) -> bool:
    """Whether the pixel `(x, y)` is set."""
    x, y = point[0] - mask.box.x, point[1] - mask.box.y
    return 0 <= x < mask.box.width and 0 <= y < mask.box.height and bool(mask.bits[y, x])


def mask_iou(one: Mask, other: Mask) -> float:
    """Intersection over union, 0 to 1, of two masks of the same picture."""
    if one.resolution_wh != other.resolution_wh:
        raise ValueError(f"masks of {one.resolution_wh} and {other.resolution_wh} are not of the same picture")
    x, y = max(one.box.x, other.box.x), max(one.box.y, other.box.y)
    right = min(one.box.x + one.box.width, other.box.x + other.box.width)
    bottom = min(one.box.y + one.box.height, other.box.y + other.box.height)
    if right <= x or bottom <= y:
        return 0.0
    both = int(np.count_nonzero(_window(one, x, y, right, bottom) & _window(other, x, y, right, bottom)))
    return both / (one.area + other.area - both)


def order_by_area(segments: Iterable[Segment]) -> list[Segment]:
    """Largest first; equals stay in the order given."""
    return sorted(segments, key=lambda segment: -segment.mask.area)


def mask_to_rle(mask: Mask) -> dict[str, Any]:
    """COCO's compressed run lengths: `{"size": [height, width], "counts": text}`."""
    from pycocotools import mask as coco

    encoded = coco.encode(np.asfortranarray(mask.full(), dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def _packed_rows(mask: Mask) -> bytes:
    """Each row's filter byte (0, none) and its bits, the leftmost highest."""
    width, height = mask.resolution_wh
    rows = np.zeros((height, 1 + (width + 7) // 8), dtype=np.uint8)
    first_byte, shift = divmod(mask.box.x, 8)
    packed = np.packbits(np.pad(mask.bits, ((0, 0), (shift, 0))), axis=1)
    rows[mask.box.y : mask.box.y + mask.box.height, 1 + first_byte : 1 + first_byte + packed.shape[1]] = packed
    return rows.tobytes()


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _window(mask: Mask, x: int, y: int, right: int, bottom: int) -> NDArray[np.bool_]:
    """The mask's bits in a window of the picture that lies inside its box."""
    return mask.bits[y - mask.box.y : bottom - mask.box.y, x - mask.box.x : right - mask.box.x]
