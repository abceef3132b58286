"""ISO base media files (ISO 14496-12): HEIF, AVIF, a camera's CR3 and most videos."""

from collections.abc import Iterator

from seg_pipeline.errors import AnimatedImage, NotAnImage, UnsupportedImage

_AVIF = {b"avif", b"avis"}
_HEIF = {
    b"heic",
    b"heix",
    b"heim",
    b"heis",
    b"hevc",
    b"hevx",
    b"hevm",
    b"hevs",
    b"mif1",
    b"mif2",
    b"msf1",
}
_OTHER_PICTURES = {b"jpeg": "JPEG", b"j2ki": "JPEG 2000", b"vvic": "VVC", b"evbi": "EVC"}
_MAX_BOXES = 256


def format_of(data: bytes) -> str | None:
    """AVIF, HEIF, or None for a file that is not ISO base media.

    Raises UnsupportedImage for a camera's raw file, AnimatedImage for an image sequence, and
    NotAnImage for videos and for files without the picture that they claim.
    """
    if data[4:8] != b"ftyp":
        return None
    brands = _brands(data)
    if brands[0] == b"crx ":
        raise UnsupportedImage(
            "The picture is a camera's raw file (Canon CR3); export it as JPEG, PNG or TIFF."
        )
    if brands[0] in _OTHER_PICTURES:
        raise UnsupportedImage(
            f"The HEIF picture holds {_OTHER_PICTURES[brands[0]]}; send it as JPEG or PNG."
        )
    format_ = _format_of_brands(brands)
    if format_ is None:
        raise NotAnImage(
            f"The {len(data)} bytes are a video or another media file (brand {_shown(brands[0])})."
        )
    boxes = {name for name, _ in _boxes(data)}
    if b"meta" not in boxes and b"moov" not in boxes:
        raise NotAnImage(
            f"The {len(data)} bytes call themselves {format_} and have no picture in them (no meta"
            " box)."
        )
    if b"meta" not in boxes:
        raise AnimatedImage(f"The {format_} picture has more than one frame; send a single one.")
    return format_


def _brands(data: bytes) -> list[bytes]:
    """The major brand, then the compatible brands."""
    end = min(int.from_bytes(data[:4], "big"), 512)
    return [data[8:12], *(data[at : at + 4] for at in range(16, end, 4))]


def _format_of_brands(brands: list[bytes]) -> str | None:
    if brands[0] in _AVIF:
        return "AVIF"
    if brands[0] not in _HEIF:
        return None
    return (
        "AVIF"
        if _AVIF & set(brands) and not (_HEIF - {b"mif1", b"mif2", b"msf1"}) & set(brands)
        else "HEIF"
    )


def _boxes(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Names and offsets of the outermost boxes."""
    at = 0
    for _ in range(_MAX_BOXES):
        if at + 8 > len(data):
            return
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        yield name, at
        if size < 8:
            return
        at += size


def _shown(brand: bytes) -> str:
    return repr(brand.decode("latin-1"))
