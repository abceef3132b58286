"""JPEG XL (ISO 18181): its size, which the decoder reports only after decoding everything."""

from seg_pipeline.errors import TruncatedImage

CODESTREAM = b"\xff\x0a"
CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"

_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_MAX_BOXES = 256
_HEADER_BYTES = 64


class _Bits:
    """Reads bits, least significant first."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "little"), len(data) * 8

    def take(self, count: int) -> int:
        """The next bits as a number; TruncatedImage past the end."""
        self._left -= count
        if self._left < 0:
            raise TruncatedImage("The JXL picture's header is truncated or damaged.")
        taken = self._value & ((1 << count) - 1)
        self._value >>= count
        return taken


def is_jxl(data: bytes) -> bool:
    """Whether the bytes begin as a JPEG XL file does, bare or in its container."""
    return data.startswith((CODESTREAM, CONTAINER))


def header_of(data: bytes) -> tuple[tuple[int, int], bool]:
    """Width and height as stored, and whether it is animated. Raises TruncatedImage."""
    bits = _Bits(_codestream(data)[2 : 2 + _HEADER_BYTES])
    size = _size(bits)
    return size, _is_animated(bits)


def _codestream(data: bytes) -> bytes:
    """The beginning of the codestream."""
    if not data.startswith(CONTAINER):
        return data[: 2 + _HEADER_BYTES]
    at = 0
    for _ in range(_MAX_BOXES):
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        head = 16 if size == 1 else 8
        begin = at + head + (4 if name == b"jxlp" else 0)
        if name in (b"jxlc", b"jxlp"):
            return data[begin : begin + 2 + _HEADER_BYTES]
        size = int.from_bytes(data[at + 8 : at + 16], "big") if size == 1 else size
        if size < 8:
            break
        at += size
    raise TruncatedImage("The JXL picture has no pixels (no codestream in its container).")


def _size(bits: _Bits) -> tuple[int, int]:
    """The size (section 6.2): multiples of 8 up to 256, or any number up to 2^30.

    The width may be a ratio of the height.
    """
    small = bits.take(1)
    height = _side(bits, small)
    ratio = bits.take(3)
    if ratio == 0:
        return _side(bits, small), height
    numerator, denominator = _RATIOS[ratio]
    return height * numerator // denominator, height


def _side(bits: _Bits, small: int) -> int:
    if small:
        return (bits.take(5) + 1) * 8
    return bits.take((9, 13, 18, 30)[bits.take(2)]) + 1


def _is_animated(bits: _Bits) -> bool:
    """The flag of animations (section 6.3), behind the orientation and the suggested sizes."""
    all_default = bits.take(1)
    if all_default or not bits.take(1):
        return False
    bits.take(3)
    if bits.take(1):
        _size(bits)
    if bits.take(1):
        return False  # a preview, which nobody writes; the decoder will tell
    return bool(bits.take(1))
