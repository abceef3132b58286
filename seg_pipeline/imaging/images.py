"""Bytes to pixels and back: what a picture is, its pixels upright in RGB, and the original as WEBP.

Every function is safe in threads and sets nothing process-wide. Only the formats in `FORMATS` are ever tried, so
bytes cannot reach the decoders of Pillow that run other programs (EPS) or are seldom looked after.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from seg_pipeline.domain import RgbImage
from seg_pipeline.errors import AnimatedImage, EmptyImage, NotAnImage, TooManyPixels, TruncatedImage

_logger = logging.getLogger(__name__)

FORMATS = {
    "AVIF": "avif",
    "BMP": "bmp",
    "GIF": "gif",
    "JPEG": "jpg",
    "PNG": "png",
    "TIFF": "tiff",
    "WEBP": "webp",
}
"""The formats that are read, and the extension each is stored with."""

WEBP_MAX_SIDE = 16383
"""The format's own limit: 14 bits a side."""

LARGE_PIXELS = 25_000_000
"""Pictures and cut-outs of more pixels are decoded and encoded one at a time, however many threads there are."""

STRIP_PIXELS = 4_000_000
"""What is done to pixels is done to strips of about so many, so that no second copy of a large picture is made."""

_PLUGINS: dict[str, Callable[..., ImageFile.ImageFile]] = {
    "AVIF": AvifImagePlugin.AvifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "JPEG": JpegImagePlugin.jpeg_factory,
    "PNG": PngImagePlugin.PngImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to what turns the picture upright; 1 is upright."""

_SIDEWAYS = {_TURNS[orientation] for orientation in (5, 6, 7, 8)}

_EXIF_ORIENTATION = 0x0112

_large_one = threading.Lock()


@dataclass(frozen=True)
class ImageHeader:
    """What a picture says of itself. `width` and `height` are as stored, before EXIF turns it."""

    format: str
    extension: str
    width: int
    height: int


def identify(data: bytes, max_pixels: int) -> ImageHeader:
    """Reads the header alone, so that a hostile picture costs nothing.

    Raises EmptyImage, NotAnImage, TruncatedImage (a header that breaks off), AnimatedImage or TooManyPixels.
    """
    format_, picture = _open(data, max_pixels)
    return ImageHeader(format_, FORMATS[format_], *picture.size)


def decode(data: bytes, max_pixels: int) -> RgbImage:
    """The picture as `(H, W, 3) uint8` RGB, upright, what is transparent on white, 16 bits scaled to 8.

    Raises what `identify` raises, and TruncatedImage for pixels that are missing or damaged.
    """
    return _decode(data, max_pixels, _upright_rgb)


def decode_alpha(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """How opaque each pixel is, `(H, W) uint8`, as stored. Raises as `decode` does."""
    return _decode(data, max_pixels, _alpha)


def verify(data: bytes, max_pixels: int) -> None:
    """Raises TruncatedImage for a PNG whose checksums do not fit; `decode` may miss that, as it stops reading when it
    has all rows. Else raises what `identify` raises."""
    format_, picture = _open(data, max_pixels)
    try:
        picture.verify()
    except Exception as error:  # see _decode
        raise TruncatedImage(f"The {format_} picture is damaged: {_reason(error)}.") from error


def encode_original(image: RgbImage) -> bytes:
    """The picture as WEBP; sides over 16383 px, the format's limit, are scaled down to fit."""
    with large_ones_in_turn(image.shape[0] * image.shape[1]):
        picture = fit_into(Image.fromarray(image), WEBP_MAX_SIDE)
        # Half the time of WEBP's defaults (method 4, quality 80), never more bytes, and half a decibel less.
        return encode_webp(picture, quality=78)


def large_ones_in_turn(pixels: int) -> AbstractContextManager[object]:
    """To hold while a picture of so many pixels is decoded or encoded: what that needs of memory, a few times the
    picture, is then needed once in a process. Not to be nested."""
    return _large_one if pixels > LARGE_PIXELS else nullcontext()


def strips(height: int, width: int) -> Iterator[slice]:
    """Rows in groups of about `STRIP_PIXELS`, in order."""
    rows = max(1, STRIP_PIXELS // max(width, 1))
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def encode_webp(picture: Image.Image, quality: int, method: int = 2) -> bytes:
    """Lossy WEBP (alpha stays exact); method 0 is quickest, 6 smallest."""
    buffer = BytesIO()
    picture.save(buffer, "WEBP", quality=quality, method=method)
    return buffer.getvalue()


def fit_into(picture: Image.Image, max_side: int) -> Image.Image:
    """The picture itself, or scaled down so that its longer side is `max_side`."""
    if max(picture.size) <= max_side:
        return picture
    return picture.resize(scaled_size(picture.size, max_side), Image.Resampling.LANCZOS)


def scaled_size(size_wh: tuple[int, int], longer_side: int) -> tuple[int, int]:
    """Width and height with the longer exactly `longer_side`, aspect kept, neither below 1."""
    scale = longer_side / max(size_wh)
    width, height = (max(1, round(side * scale)) for side in size_wh)
    return width, height


def _decode(data: bytes, max_pixels: int, pixels_of: Callable[[Image.Image], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    format_, picture = _open(data, max_pixels)
    try:
        with large_ones_in_turn(picture.width * picture.height):
            picture.load()
            return pixels_of(picture)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever they like on damaged bytes
        raise TruncatedImage(f"The {format_} picture is truncated or damaged: {_reason(error)}.") from error


def _open(data: bytes, max_pixels: int) -> tuple[str, ImageFile.ImageFile]:
    """The format and the picture that is not decoded yet; passed the checks on frames and pixels."""
    if not data:
        raise EmptyImage("The picture is empty: no bytes arrived.")
    format_ = _format_of(data)
    try:
        # Not Image.open: its bomb check warns and refuses by a process-wide limit, ours is `max_pixels`.
        picture = _PLUGINS[format_](BytesIO(data), "")
        animated = getattr(picture, "is_animated", False) and picture.format != "MPO"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels(f"The picture has more pixels than can be read: {_reason(error)}.") from error
    except MemoryError:
        raise
    except Exception as error:  # see _decode
        raise TruncatedImage(f"The {format_} picture's header is truncated or damaged: {_reason(error)}.") from error
    _check_pixels(picture.size, max_pixels)
    if animated:
        raise AnimatedImage(f"The {format_} picture has more than one frame; send a single one.")
    return format_, picture


def _format_of(data: bytes) -> str:
    """The one format whose signature the bytes begin with."""
    for format_ in FORMATS:
        accept = Image.OPEN[format_][1]
        # AVIF answers with a sentence, not True, where Pillow was built without its decoder.
        if accept is not None and accept(data[:16]) is True:
            return format_
    known = ", ".join(FORMATS)
    raise NotAnImage(f"The {len(data)} bytes are no picture of a known format ({known}).")


def _check_pixels(size_wh: tuple[int, int], max_pixels: int) -> None:
    width, height = size_wh
    if width < 1 or height < 1:
        raise TruncatedImage(f"The picture's header says {width}x{height} pixels; both sides must be at least 1.")
    if width * height > max_pixels:
        raise TooManyPixels(
            f"The picture has {width}x{height} = {width * height} pixels, more than MAX_IMAGE_PIXELS = {max_pixels}; "
            "scale it down."
        )


def _upright_rgb(picture: Image.Image) -> RgbImage:
    """As the EXIF orientation says, strip by strip where the strips do not depend on one another."""
    turn = _turn_of(picture)
    if picture.mode.startswith("I") or picture.mode == "F":
        return np.array(_to_rgb(picture if turn is None else picture.transpose(turn)))
    width, height = picture.size
    upright = np.empty((width, height, 3) if turn in _SIDEWAYS else (height, width, 3), dtype=np.uint8)
    stored = _as_stored(upright, turn)
    for rows in strips(height, width):
        stored[rows] = np.asarray(_to_rgb(_strip(picture, rows)))
    return upright


def _alpha(picture: Image.Image) -> NDArray[np.uint8]:
    width, height = picture.size
    alpha = np.empty((height, width), dtype=np.uint8)
    for rows in strips(height, width):
        alpha[rows] = np.asarray(_strip(picture, rows).convert("RGBA").getchannel("A"))
    return alpha


def _strip(picture: Image.Image, rows: slice) -> Image.Image:
    whole = rows == slice(0, picture.height)
    return picture if whole else picture.crop((0, rows.start, picture.width, rows.stop))


def _turn_of(picture: Image.Image) -> Image.Transpose | None:
    """What turns the picture upright; an EXIF block that cannot be read leaves it as it is."""
    try:
        orientation = picture.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:
        return None
    return _TURNS.get(orientation) if isinstance(orientation, int) else None


def _as_stored(upright: RgbImage, turn: Image.Transpose | None) -> RgbImage:
    """The upright pixels in the order in which the file has them; a view."""
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


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Any mode as RGB."""
    if picture.mode.startswith("I") or picture.mode == "F":
        return _wide_grey_to_rgb(np.asarray(picture), picture.info.get("transparency"))
    if picture.has_transparency_data:
        return _to_srgb(_flatten(picture.convert("RGBA")), picture.info.get("icc_profile"))
    return _to_srgb(picture, picture.info.get("icc_profile"))


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """By the embedded colour profile, as phones (Display P3) and printers (CMYK) write them; without one, or with
    one that is damaged or not this picture's, by the plain formulas."""
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
    """The profile to convert from, or None where there is nothing to convert."""
    if mode == "LAB":
        return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    if not profile:
        return None
    opened = ImageCms.ImageCmsProfile(BytesIO(profile))
    return None if "sRGB" in ImageCms.getProfileDescription(opened) else opened


def _flatten(picture: Image.Image) -> Image.Image:
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def _wide_grey_to_rgb(grey: NDArray[Any], transparent: object) -> Image.Image:
    """16-bit grey by its high byte, as Pillow does for 16-bit RGB; wider integers and floats from their own range.
    The one grey that a PNG may name transparent becomes white."""
    if grey.dtype.itemsize == 2 or (grey.dtype.kind == "i" and grey.min() >= 0 and 255 < grey.max() <= 65535):
        eight_bits = (grey.astype(np.uint16) >> 8).astype(np.uint8)
    else:
        eight_bits = _stretch(grey.astype(np.float64))
    if isinstance(transparent, int):
        eight_bits[grey == transparent] = 255
    return Image.fromarray(eight_bits).convert("RGB")


def _stretch(grey: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The finite values' range to 0 to 255; a flat picture is black."""
    finite = grey[np.isfinite(grey)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = (np.nan_to_num(grey, nan=low, posinf=high, neginf=low) - low) * (255 / ((high - low) or 1))
    return np.clip(np.nan_to_num(scaled), 0, 255).astype(np.uint8)


def _reason(error: Exception) -> str:
    return str(error).rstrip(".")[:200] or type(error).__name__
