"""TIFF 6.0 and BigTIFF: its directories, and what they say beyond Pillow's mode."""

import contextlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from seg_pipeline.errors import AnimatedImage, ImageTooCostly, TruncatedImage, UnsupportedImage

MAX_DIRECTORIES = 1_024
MAX_ENTRIES = 65_536
"""In all directories together. A camera writes some hundred."""

_NEW_SUBFILE_TYPE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_SAMPLES, _PAGE_NUMBER, _TILE_WIDTH, _TILE_HEIGHT, _SUB_IFDS = 277, 297, 322, 323, 330
_EXTRA_SAMPLES, _SAMPLE_FORMAT, _DNG_VERSION = 338, 339, 50706
_WANTED = {
    _NEW_SUBFILE_TYPE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PAGE_NUMBER,
    _TILE_WIDTH,
    _TILE_HEIGHT, _SUB_IFDS, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _DNG_VERSION,
}  # fmt: skip

_REDUCED, _PAGE, _MASK = 1, 2, 4
"""Bits of NewSubfileType."""

_TYPE_BYTES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_TYPE_CODES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_MAX_VALUES = 64

_READ_COMPRESSIONS = {
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    32771,
    32773,
    32809,
    32946,
    34676,
    34677,
    34925,
    50000,
    50001,
}
_COMPRESSIONS = {
    9: "JBIG", 10: "JBIG", 33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000",
    34661: "JBIG",
    34712: "JPEG 2000", 34887: "LERC", 34892: "lossy JPEG of DNG", 50002: "JPEG XL",
    52546: "JPEG XL",
}  # fmt: skip
_PHOTOMETRICS = {
    0: "grey, 0 is white", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr",
    8: "CIELab",
    9: "ICCLab", 10: "ITULab", 32844: "LogL", 32845: "LogLuv",
}  # fmt: skip
_RAW_COMPRESSIONS = {32767, 32769, 32770, 34713, 65000, 65535}
_SENSOR_DATA = {32803, 34892}
"""Photometric interpretations of camera sensors: a colour filter array, and linear raw."""

_RAW_SIGNATURES = {
    b"IIU\0": "Panasonic RW2",
    b"IIRO": "Olympus ORF",
    b"IIRS": "Olympus ORF",
    b"MMOR": "Olympus ORF",
}
_ORDERS = {
    b"II*\0": ("<", False),
    b"MM\0*": (">", False),
    b"II+\0": ("<", True),
    b"MM\0+": (">", True),
}


@dataclass(frozen=True)
class Directory:
    """One picture of the file: the tags that matter here, by number."""

    tags: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def first(self, tag: int, default: int = 0) -> int:
        """The tag's first value."""
        return self.tags.get(tag, (default,))[0]

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height as stored."""
        return self.first(_WIDTH), self.first(_HEIGHT)

    @property
    def bits(self) -> int:
        """Bits of a sample."""
        return self.first(_BITS, 1)

    @property
    def samples(self) -> int:
        """Samples of a pixel."""
        return self.first(_SAMPLES, 1)

    @property
    def zero_is_white(self) -> bool:
        """Whether small numbers are bright (PhotometricInterpretation 0)."""
        return self.first(_PHOTOMETRIC) == 0

    @property
    def has_floats(self) -> bool:
        """Whether its samples are floating point numbers (SampleFormat 3)."""
        return self.first(_SAMPLE_FORMAT, 1) == 3

    @property
    def has_wide_floats(self) -> bool:
        """Whether it has doubles, or several floats a pixel."""
        return self.has_floats and (self.samples > 1 or self.bits == 64)

    @property
    def is_unsigned(self) -> bool:
        """Whether its samples are unsigned integers (SampleFormat 1)."""
        return self.first(_SAMPLE_FORMAT, 1) == 1

    @property
    def layout(self) -> str:
        """Describes its samples, for a message."""
        kind = {2: "signed", 3: "float"}.get(self.first(_SAMPLE_FORMAT, 1), "unsigned")
        photometric = self.first(_PHOTOMETRIC)
        colours = _PHOTOMETRICS.get(photometric, f"PhotometricInterpretation {photometric}")
        extra = (
            f", {len(self.tags[_EXTRA_SAMPLES])} of them extra"
            if _EXTRA_SAMPLES in self.tags
            else ""
        )
        return f"{self.samples} samples a pixel{extra}, each {self.bits} bits {kind}, {colours}"

    @property
    def _is_page(self) -> bool:
        return bool(self.first(_NEW_SUBFILE_TYPE) & _PAGE) or _PAGE_NUMBER in self.tags

    @property
    def _belongs_to_another(self) -> bool:
        return bool(self.first(_NEW_SUBFILE_TYPE) & (_REDUCED | _MASK))


@dataclass(frozen=True)
class TiffHeader:
    """The first directory, which is the picture, and how many pages the file has."""

    picture: Directory
    pages: int


def is_tiff(data: bytes) -> bool:
    """Whether the bytes begin as a TIFF does, or as a raw file of that structure.

    Some cameras' raw files differ only in the signature.
    """
    return data[:4] in _ORDERS or data[:4] in _RAW_SIGNATURES


def read_header(data: bytes) -> TiffHeader:
    """The picture's directory, checked.

    Raises TruncatedImage; UnsupportedImage for camera raw or an unknown compression; AnimatedImage
    for several pictures that are not called pages; ImageTooCostly for more entries, or a larger
    tile, than its pixels need.
    """
    if data[:4] in _RAW_SIGNATURES:
        raise UnsupportedImage(_raw(_RAW_SIGNATURES[data[:4]]))
    directories = list(_Reader(data).chain())
    if not directories or min(directories[0].size_wh) < 1:
        raise TruncatedImage(
            "The TIFF picture's header is truncated or damaged: it has no directory with a size."
        )
    picture = directories[0]
    _refuse_raw(data, directories)
    pages = [each for each in directories[1:] if not each._belongs_to_another]
    if pages and not all(each._is_page for each in (picture, *pages)):
        raise AnimatedImage(
            f"The TIFF picture has more than one frame ({1 + len(pages)} that are not called pages"
            " by NewSubfileType); send a single one."
        )
    _check_compression(picture)
    _check_tile(picture)
    return TiffHeader(picture, 1 + len(pages))


def _refuse_raw(data: bytes, directories: list[Directory]) -> None:
    picture = directories[0]
    if _DNG_VERSION in picture.tags:
        raise UnsupportedImage(_raw("DNG"))
    if data[8:10] == b"CR":
        raise UnsupportedImage(_raw("Canon CR2"))
    inner = [*directories, *_Reader(data).inner(picture)]
    sensor = any(each.first(_PHOTOMETRIC) in _SENSOR_DATA for each in inner)
    if sensor or any(each.first(_COMPRESSION, 1) in _RAW_COMPRESSIONS for each in inner):
        raise UnsupportedImage(_raw("sensor data in TIFF, such as NEF, ARW or PEF"))
    if picture.first(_NEW_SUBFILE_TYPE) & _REDUCED and len(inner) > 1:
        raise UnsupportedImage(_raw("a thumbnail with the picture behind it, as NEF and ARW have"))


def _raw(name: str) -> str:
    return f"The picture is a camera's raw file ({name}); export it as JPEG, PNG or TIFF."


def _check_compression(picture: Directory) -> None:
    number = picture.first(_COMPRESSION, 1)
    if number not in _READ_COMPRESSIONS:
        name = _COMPRESSIONS.get(number, f"number {number}")
        raise UnsupportedImage(
            f"The TIFF picture's compression is not read ({name}); save it with LZW or Deflate."
        )


def _check_tile(picture: Directory) -> None:
    """Refuses a large tile: it is decoded whole, however small the picture is."""
    (width, height), tile = (
        picture.size_wh,
        (picture.first(_TILE_WIDTH), picture.first(_TILE_HEIGHT)),
    )
    if tile[0] * tile[1] > 4 * (width * height + 2**20):
        raise ImageTooCostly(
            f"The TIFF picture of {width}x{height} pixels is in tiles of {tile[0]}x{tile[1]}; save"
            " it in smaller tiles."
        )


class _Reader:
    """Reads the directories of a file, each once."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._order, self._big = _ORDERS[data[:4]]
        self._entries = 0
        self._value_bytes = 0
        self._seen: set[int] = set()

    def chain(self) -> Iterator[Directory]:
        """The directories that follow one another, up to one that was read before."""
        at = self._number(8, 8) if self._big else self._number(4, 4)
        while at and at not in self._seen and len(self._seen) < MAX_DIRECTORIES:
            try:
                directory, at = self._directory(at)
            except TruncatedImage:
                if not self._seen - {at}:
                    raise
                return
            yield directory

    def inner(self, directory: Directory) -> Iterator[Directory]:
        """The readable directories that one names as its own (SubIFDs)."""
        for at in directory.tags.get(_SUB_IFDS, ()):
            with contextlib.suppress(TruncatedImage):
                yield self._directory(at)[0]

    def _directory(self, at: int) -> tuple[Directory, int]:
        """A directory, and the offset of the next; 0 after the last."""
        self._seen.add(at)
        head, size = (8, 20) if self._big else (2, 12)
        count = self._number(at, head)
        self._count_entries(count)
        tags = dict(filter(None, (self._entry(at + head + index * size) for index in range(count))))
        after = at + head + count * size
        rest = 8 if self._big else 4
        following = self._number(after, rest) if after + rest <= len(self._data) else 0
        return Directory(tags), following if following < len(self._data) else 0

    def _count_entries(self, count: int) -> None:
        self._entries += count
        if self._entries > MAX_ENTRIES:
            raise ImageTooCostly(
                f"The TIFF picture has more than {MAX_ENTRIES} entries in its directories."
            )

    def _entry(self, at: int) -> tuple[int, tuple[int, ...]] | None:
        """A tag that matters, and its values."""
        tag, kind = self._number(at, 2), self._number(at + 2, 2)
        count = self._number(at + 4, 8 if self._big else 4)
        inline, place = (8, at + 12) if self._big else (4, at + 8)
        size = count * _TYPE_BYTES.get(kind, 0)
        self._count_value_bytes(size)
        if tag not in _WANTED or kind not in _TYPE_CODES or not count:
            return None
        if size > inline:
            place = self._number(place, inline)
        count = min(count, _MAX_VALUES)
        return tag, self._numbers(place, _TYPE_CODES[kind], count)

    def _count_value_bytes(self, size: int) -> None:
        """Counts the bytes of values.

        Entries may repeat them, and a decoder reads them each time.
        """
        self._value_bytes += size if size <= len(self._data) else 0
        if self._value_bytes > 4 * len(self._data) + 2**20:
            raise ImageTooCostly(
                "The TIFF picture's directories name the same bytes again and again; save it anew."
            )

    def _number(self, at: int, size: int) -> int:
        return self._numbers(at, {2: "H", 4: "I", 8: "Q"}[size], 1)[0]

    def _numbers(self, at: int, code: str, count: int) -> tuple[int, ...]:
        try:
            return struct.unpack_from(f"{self._order}{count}{code}", self._data, at)
        except (struct.error, OverflowError) as error:
            raise TruncatedImage(
                "The TIFF picture's header is truncated or damaged: it breaks off."
            ) from error
