"""Masks as Label Studio's brush stores them: the run lengths of rle-pack, from @thi.ng/umbrella."""

from collections.abc import Iterator

from seg_client.extras import library
from seg_client.masks import BoolMask

_VALUE_BITS = 8
_LENGTH_BITS = (3, 4, 8, 16)
"""A run says in two bits which of these its length has."""

_CHANNELS = 4
"""Label Studio's masks are RGBA, all four channels alike."""


def brush_run_lengths(mask: BoolMask) -> list[int]:
    """The bytes of a mask `(H, W) bool`: 255 inside, 0 outside."""
    bits = _number(mask.size * _CHANNELS, 32) + _number(_VALUE_BITS - 1, 5)
    bits += "".join(_number(size - 1, 4) for size in _LENGTH_BITS)
    bits += "".join(_run(length, value) for length, value in _pieces(mask))
    whole = bits.ljust(-(-len(bits) // 8) * 8, "0")
    return [*int(whole, 2).to_bytes(len(whole) // 8, "big")]


def _pieces(mask: BoolMask) -> Iterator[tuple[int, int]]:
    """The length and the value of each run, row by row, none longer than its bits can say."""
    numpy = library("numpy", "to_label_studio_masks()", "arrays")
    flat = mask.ravel()
    ends = numpy.append(numpy.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    longest, begin = 2 ** _LENGTH_BITS[-1], 0
    for end in ends.tolist():
        value, left = 255 * int(flat[begin]), (end - begin) * _CHANNELS
        while left:
            length = min(left, longest)
            yield length, value
            left -= length
        begin = end


def _run(length: int, value: int) -> str:
    place = next(n for n, size in enumerate(_LENGTH_BITS) if length <= 2**size)
    head = "1" + _number(place, 2) + _number(length - 1, _LENGTH_BITS[place])
    return head + _number(value, _VALUE_BITS)


def _number(value: int, size: int) -> str:
    return format(value, f"0{size}b")
