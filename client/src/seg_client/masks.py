"""Masks as arrays."""

from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeAlias

from seg_client.answers import RunLengths
from seg_client.errors import UnexpectedAnswer
from seg_client.extras import library

if TYPE_CHECKING:
    import numpy as np

BoolMask: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"
"""`(H, W) bool`, as large as the picture."""


def mask_of_run_lengths(rle: RunLengths) -> BoolMask:
    """The mask. Raises UnexpectedAnswer if the runs do not fill it."""
    numpy = library("numpy", "a mask", "arrays")
    height, width = rle.size
    runs = read_counts(rle.counts)
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise UnexpectedAnswer(f"the run lengths of a mask do not fill {width} by {height} pixels.")
    mask: BoolMask = numpy.repeat(numpy.arange(len(runs)) % 2 == 1, runs)
    return mask.reshape(width, height).T


def mask_of_png(data: bytes) -> BoolMask:
    """The mask in a file of the service's: what is opaque is inside."""
    numpy = library("numpy", "a mask", "arrays")
    pillow = library("PIL.Image", "a mask from its file", "pictures")
    alpha = pillow.open(BytesIO(data)).convert("RGBA").getchannel("A")
    mask: BoolMask = numpy.asarray(alpha) > 127
    return mask


def read_counts(counts: str) -> list[int]:
    """The runs that COCO's compressed text stands for, outside first.

    Five bits a character, the lowest first; from the fourth run on, what is written is the
    difference to the run before the last (`rleFrString` of pycocotools).
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs
