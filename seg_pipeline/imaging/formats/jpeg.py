"""JPEG (ITU T.81): how many parts it has, and whether its end is present."""

import random
import re
from collections.abc import Iterator

from seg_pipeline.errors import ImageTooCostly

MAX_SEGMENTS = 4_096
"""Marker segments before the first scan. A colour profile and XMP of 32 MB make 512."""

MAX_FILL_BYTES = 65_536
MAX_SCANS = 100
"""Each scan covers the whole picture again; encoders write 1 to about 20."""

_MARKER = re.compile(rb"\xff+[^\x00\xff]")
_MARKER_BEHIND_SCAN = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
_START_OF_SCAN, _END_OF_IMAGE, _RESTART_INTERVAL = 0xDA, 0xD9, 0xDD
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")

_NOISE = random.Random(0).randbytes(65_536).replace(b"\xff", b"\xfe")
_PIXELS_PER_NOISE_BYTE = 2
"""Noise decodes to four pixels a byte or more."""

_LEAST_NOISE = 1_024
_LEAST_UNIT_PIXELS = 64
_NOISE_BYTES_PER_UNIT = 96
"""A unit between restarts has 64 to 256 pixels.

They lie in at most six blocks, each of some ten bytes of noise.
"""

_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xDA)}


def check_header(data: bytes) -> None:
    """Raises ImageTooCostly for too many segments or fill bytes before the first scan."""
    fill = at = 0
    for segments, (begin, marker) in enumerate(_markers(data)):
        fill += begin - at
        if segments >= MAX_SEGMENTS or fill > MAX_FILL_BYTES:
            raise too_many_segments()
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            return
        at = _end_of_segment(data, begin, marker)


def too_many_segments() -> ImageTooCostly:
    """The error for a header that no picture needs."""
    return ImageTooCostly(
        f"The JPEG picture has more than {MAX_SEGMENTS} segments, or {MAX_FILL_BYTES} bytes between"
        " them, before its pixels; save it anew."
    )


def check_scans(data: bytes) -> None:
    """Raises ImageTooCostly for more scans than encoders write."""
    scans = 0
    for _, marker in _markers(data):
        scans += marker == _START_OF_SCAN
        if scans > MAX_SCANS:
            raise ImageTooCostly(
                f"The JPEG picture has more than {MAX_SCANS} scans; save it anew, with fewer"
                " passes."
            )
        if marker == _END_OF_IMAGE:
            return


def without_its_end(data: bytes) -> bool:
    """Whether the marker that ends a JPEG is missing."""
    return all(marker != _END_OF_IMAGE for _, marker in _markers(data))


def noise_behind(data: bytes, pixels: int) -> bytes:
    """Noise to put behind `data`, which decodes to different pixels up to the end of the picture.

    `pixels` is the picture's size. With restart intervals, each one gets its own noise behind the
    marker that is expected there.
    """
    interval, scan = 0, 0
    for begin, marker in _markers(data):
        if marker == _RESTART_INTERVAL:
            interval = int.from_bytes(data[begin + 3 : begin + 5], "big")
        scan = begin if marker == _START_OF_SCAN else scan
    if not interval:
        return _repeated(pixels // _PIXELS_PER_NOISE_BYTE + _LEAST_NOISE)
    piece = _repeated(
        min(interval * _NOISE_BYTES_PER_UNIT, pixels // _PIXELS_PER_NOISE_BYTE + _LEAST_NOISE)
    )
    restarts = _RESTART.findall(data, scan)
    first = (restarts[-1][1] - 0xD0 + 1) if restarts else 0
    intervals = pixels // (_LEAST_UNIT_PIXELS * interval) + 1
    return piece + b"".join(
        bytes((0xFF, 0xD0 + (first + number) % 8)) + piece for number in range(intervals)
    )


def _repeated(size: int) -> bytes:
    return (_NOISE * (size // len(_NOISE) + 1))[:size]


def _markers(data: bytes) -> Iterator[tuple[int, int]]:
    """The position of each marker's code, and the code, in order."""
    at, pattern = 2, _MARKER
    while match := pattern.search(data, at):
        begin, marker = match.end() - 1, data[match.end() - 1]
        yield begin, marker
        at = _end_of_segment(data, begin, marker)
        pattern = (
            _MARKER_BEHIND_SCAN if marker == _START_OF_SCAN or 0xD0 <= marker <= 0xD7 else _MARKER
        )


def _end_of_segment(data: bytes, begin: int, marker: int) -> int:
    length = (
        0
        if marker in _WITHOUT_LENGTH
        else max(2, int.from_bytes(data[begin + 1 : begin + 3], "big"))
    )
    return begin + 1 + length
