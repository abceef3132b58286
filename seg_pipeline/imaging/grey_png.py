"""Writes grey PNGs of 8 or 16 bits strip by strip, so that none is in memory as a whole."""

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg_pipeline.imaging.formats.png import SIGNATURE

_UP = 2
"""The filter that keeps each byte's difference from the one above (PNG, third edition, 9.2).

Most of it is zeros, which zlib's RLE strategy packs at 200 MB a second.
"""


def grey_png(
    resolution_wh: tuple[int, int], bits: int, strips: Iterable[NDArray[Any]]
) -> Iterator[bytes]:
    """The PNG in pieces, from strips of rows `(n, W)` of uint8, or of uint16 where `bits` is 16."""
    deflate = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    yield SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", *resolution_wh, bits, 0, 0, 0, 0))
    above = np.zeros(resolution_wh[0] * bits // 8, dtype=np.uint8)
    for strip in strips:
        rows = np.ascontiguousarray(strip, dtype=f">u{bits // 8}").view(np.uint8)
        pixels = deflate.compress(_filtered(rows, above))
        above = rows[-1]
        if pixels:
            yield _chunk(b"IDAT", pixels)
    yield _chunk(b"IDAT", deflate.flush()) + _chunk(b"IEND", b"")


def _filtered(rows: NDArray[np.uint8], above: NDArray[np.uint8]) -> bytes:
    """Each row's filter byte, and its differences from the row above."""
    filtered = np.empty((rows.shape[0], 1 + rows.shape[1]), dtype=np.uint8)
    filtered[:, 0] = _UP
    np.subtract(rows[0], above, out=filtered[0, 1:])
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    return filtered.tobytes()


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
