"""Converts a Pillow image to `(H, W, 3) uint8` RGB: upright, in sRGB, on white.

Its brightness follows the file's own range. Pixels are converted strip by strip, so that no second
copy of a large picture is made.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from seg_pipeline.domain import RgbImage
from seg_pipeline.errors import UnsupportedImage
from seg_pipeline.imaging.formats import png, tiff

_logger = logging.getLogger(__name__)

STRIP_PIXELS = 4_000_000
"""The approximate number of pixels in a strip."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""From an EXIF orientation to the turn that makes the picture upright; 1 is upright."""

_SIDEWAYS = {_TURNS[orientation] for orientation in (5, 6, 7, 8)}

_EXIF_ORIENTATION = 0x0112

Allocate = Callable[[tuple[int, ...]], NDArray[np.uint8]]
"""Returns an uninitialised array of that shape."""


@dataclass(frozen=True)
class Facts:
    """What a file says of its samples beyond Pillow's mode."""

    format: str
    grey_bits: int | None = None
    directory: tiff.Directory | None = None

    @classmethod
    def of(cls, format_: str, data: bytes, directory: tiff.Directory | None = None) -> "Facts":
        """The facts of a picture in one of the formats."""
        return cls(format_, png.grey_depth(data) if format_ == "PNG" else None, directory)


def new_array(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An array in this process's own memory."""
    return np.empty(shape, dtype=np.uint8)


def upright_rgb(picture: Image.Image, facts: Facts, allocate: Allocate) -> RgbImage:
    """The picture turned as its EXIF orientation says, converted strip by strip."""
    # JPEG XL is upright by itself.
    turn = None if getattr(picture, "jpeg", None) is False else _turn_of(picture)
    to_rgb = _converter(picture, facts)
    width, height = picture.size
    upright = allocate((width, height, 3) if turn in _SIDEWAYS else (height, width, 3))
    stored = _as_stored(upright, turn)
    for rows in strips(height, width):
        stored[rows] = to_rgb(strip_of(picture, rows))
    return upright


def alpha(picture: Image.Image) -> NDArray[np.uint8]:
    """The opacity of each pixel, `(H, W) uint8`."""
    width, height = picture.size
    opacity = np.empty((height, width), dtype=np.uint8)
    for rows in strips(height, width):
        opacity[rows] = np.asarray(strip_of(picture, rows).convert("RGBA").getchannel("A"))
    return opacity


def strips(height: int, width: int) -> Iterator[slice]:
    """Rows in groups of about `STRIP_PIXELS`, in order."""
    rows = max(1, STRIP_PIXELS // max(width, 1))
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def strip_of(picture: Image.Image, rows: slice) -> Image.Image:
    """Some of the rows, or the picture itself for all of them."""
    whole = rows == slice(0, picture.height)
    return picture if whole else picture.crop((0, rows.start, picture.width, rows.stop))


def _turn_of(picture: Image.Image) -> Image.Transpose | None:
    """The turn that makes the picture upright; None for an EXIF block that cannot be read."""
    try:
        orientation = picture.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:
        return None
    return _TURNS.get(orientation) if isinstance(orientation, int) else None


def _as_stored(upright: RgbImage, turn: Image.Transpose | None) -> RgbImage:
    """A view of the upright pixels in the order in which the file stores them."""
    across = upright.transpose(1, 0, 2)
    return {
        None: upright,
        Image.Transpose.FLIP_LEFT_RIGHT: upright[:, ::-1],
        Image.Transpose.ROTATE_180: upright[::-1, ::-1],
        Image.Transpose.FLIP_TOP_BOTTOM: upright[::-1],
        Image.Transpose.TRANSPOSE: across,
        Image.Transpose.ROTATE_270: across[::-1],
        Image.Transpose.TRANSVERSE: across[::-1, ::-1],
        Image.Transpose.ROTATE_90: across[:, ::-1],
    }[turn]


def _converter(picture: Image.Image, facts: Facts) -> Callable[[Image.Image], NDArray[np.uint8]]:
    """What converts a strip to RGB, which depends on more than Pillow's mode."""
    if picture.mode.startswith("I") or picture.mode == "F":
        return _wide_grey(picture, facts.directory)
    if (
        facts.format == "BMP"
        and picture.mode == "RGBA"
        and picture.getchannel("A").getextrema() == (0, 0)
    ):
        # As in Windows: a picture that is transparent everywhere is shown as opaque.
        return lambda strip: np.asarray(_to_rgb(strip.convert("RGB")))
    depth, transparent = facts.grey_bits, picture.info.get("transparency")
    if depth in (1, 2, 4) and isinstance(transparent, int):
        return lambda strip: _grey_with_a_hole(strip, transparent * 255 // (2**depth - 1))
    return lambda strip: np.asarray(_to_rgb(strip))


def _grey_with_a_hole(strip: Image.Image, transparent: int) -> NDArray[np.uint8]:
    grey = np.asarray(strip.convert("L"))
    rgb = np.array(_to_srgb(Image.fromarray(grey), strip.info.get("icc_profile")))
    rgb[grey == transparent] = 255
    return rgb


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Any mode of 8 bits or less as RGB."""
    if picture.has_transparency_data:
        return _to_srgb(_flatten(picture.convert("RGBA")), picture.info.get("icc_profile"))
    return _to_srgb(picture, picture.info.get("icc_profile"))


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture in sRGB, by its embedded colour profile, as phones and printers write one.

    Without a profile, or with one that is damaged or does not fit, the plain formulas apply. Phones
    write Display P3, printers CMYK.
    """
    if picture.mode not in ("L", "RGB", "CMYK", "LAB"):
        picture = picture.convert("RGB")
    try:
        source = _profile(picture.mode, profile)
        if source is not None:
            srgb = ImageCms.createProfile("sRGB")
            picture = ImageCms.profileToProfile(picture, source, srgb, outputMode="RGB") or picture
    except (ImageCms.PyCMSError, OSError, ValueError):
        _logger.info("Ignoring a colour profile that does not fit the picture or is damaged.")
    return picture.convert("RGB")


def _profile(mode: str, profile: bytes | None) -> ImageCms.ImageCmsProfile | None:
    """The profile to convert from; None if there is nothing to convert."""
    if mode == "LAB":
        return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    if not profile:
        return None
    opened = ImageCms.ImageCmsProfile(BytesIO(profile))
    return None if "sRGB" in ImageCms.getProfileDescription(opened) else opened


def _flatten(picture: Image.Image) -> Image.Image:
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def _wide_grey(
    picture: Image.Image, directory: tiff.Directory | None
) -> Callable[[Image.Image], NDArray[np.uint8]]:
    """Converts grey samples of more than 8 bits.

    Unsigned numbers of up to 16 bits keep their highest eight, as in Pillow's 16-bit RGB. Wider
    numbers, signed ones and floats are scaled from their own range. The one grey that a PNG may
    name transparent becomes white.
    """
    transparent = picture.info.get("transparency")
    unsigned = np.uint32 if directory and directory.is_unsigned and directory.bits == 32 else None
    inverted = bool(directory and directory.zero_is_white)
    if picture.mode.startswith("I;16"):
        low, high, shift = 0.0, 0.0, (directory.bits if directory else 16) - 8
    else:
        (low, high), shift = _range(picture, unsigned), None

    def convert(strip: Image.Image) -> NDArray[np.uint8]:
        grey = np.asarray(strip) if unsigned is None else np.asarray(strip).view(unsigned)
        eight_bits = (
            _stretch(grey, low, high) if shift is None else (grey >> shift).astype(np.uint8)
        )
        if inverted:
            eight_bits = 255 - eight_bits
        if isinstance(transparent, int):
            eight_bits[grey == transparent] = 255
        return np.repeat(eight_bits[..., None], 3, axis=2)

    return convert


def _range(picture: Image.Image, dtype: Any = None) -> tuple[float, float]:
    """The minimum and maximum of the finite values; 0 and 0 without any."""
    ranges = []
    for rows in strips(picture.height, picture.width):
        values = np.asarray(strip_of(picture, rows))
        ranges.append(_range_of(values if dtype is None else values.view(dtype)))
    known = [each for each in ranges if each is not None]
    return (min(low for low, _ in known), max(high for _, high in known)) if known else (0.0, 0.0)


def _range_of(values: NDArray[Any]) -> tuple[float, float] | None:
    low, high = float(values.min()), float(values.max())
    if np.isfinite(low) and np.isfinite(high):
        return low, high
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else None


def _stretch(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Scales a range to 0 to 255. A flat picture becomes black, and so do NaNs."""
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = (values - np.float64(low)) * (255 / ((high - low) or 1))
    if values.dtype.kind == "f":
        scaled = np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255)
    return scaled.astype(np.uint8)


def floats_to_rgb(data: bytes, directory: tiff.Directory, allocate: Allocate) -> RgbImage:
    """A TIFF of doubles or of several floats a pixel, which Pillow does not read.

    It is scaled from the range of all samples.
    """
    import cv2

    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if (
        values is None
        or values.shape[:2] != (directory.size_wh[1], directory.size_wh[0])
        or values.dtype.kind != "f"
    ):
        raise UnsupportedImage(
            f"The TIFF picture is of a kind that is not read ({directory.layout});"
            " save it with 8 bits."
        )
    values = values if values.ndim == 3 else values[..., None]
    low, high = _range_of(values) or (0.0, 0.0)
    rgb = allocate((*values.shape[:2], 3))
    for rows in strips(*values.shape[:2]):
        eight_bits = _stretch(values[rows], low, high)
        eight_bits = 255 - eight_bits if directory.zero_is_white else eight_bits
        rgb[rows] = eight_bits[..., 2::-1] if eight_bits.shape[2] >= 3 else eight_bits[..., :1]
    return rgb
