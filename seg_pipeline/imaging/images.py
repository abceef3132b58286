"""Reads and writes pictures: headers, pixels upright in RGB, and the original as WEBP.

Every function is thread-safe. Only the formats in `FORMATS` are ever tried. So bytes cannot reach
those of Pillow's decoders that run other programs (EPS) or are poorly maintained. A worker decodes
untrusted bytes by `decoder_pool`, which calls these functions in processes with limits.
"""

import errno
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from seg_pipeline.domain import RgbImage
from seg_pipeline.errors import (
    AnimatedImage,
    EmptyImage,
    ImageError,
    NotAnImage,
    TooManyPixels,
    TruncatedImage,
    UnsupportedImage,
)
from seg_pipeline.imaging.formats import bmff, jpeg, jxl, png, tiff
from seg_pipeline.imaging.pixels import (
    Allocate,
    Facts,
    alpha,
    floats_to_rgb,
    new_array,
    strip_of,
    strips,
    upright_rgb,
)

FORMATS = {
    "AVIF": "avif",
    "BMP": "bmp",
    "GIF": "gif",
    "HEIF": "heic",
    "JPEG": "jpg",
    "JXL": "jxl",
    "PNG": "png",
    "TIFF": "tiff",
    "WEBP": "webp",
}
"""The formats that are read, and the extension each is stored with."""

WEBP_MAX_SIDE = 16383
"""The format's own limit: 14 bits a side."""

LARGE_PIXELS = 25_000_000
"""Larger pictures and cut-outs are decoded and encoded one at a time, in however many threads."""

_END_OF_JPEG = b"\xff\xd9"
MAX_UNKNOWN_SHARE = 0.01
"""A JPEG without its end is whole if at most this share of its pixels depends on the rest."""

_SIGNATURES = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (png.SIGNATURE,),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
}

_RAW_SIGNATURES = {
    b"FUJIFILMCCD-RAW": "Fujifilm RAF",
    b"FOVb": "Sigma X3F",
    b"\0MRM": "Minolta MRW",
}

_UNSUPPORTED = re.compile(
    r"unsupported|not supported|unknown pixel mode|unknown raw mode|cannot handle|not implemented"
    r"|not available|no codec",
    re.IGNORECASE,
)
"""How decoders say that a file is valid but not supported."""


_large_one = threading.Lock()


@dataclass(frozen=True)
class ImageHeader:
    """A picture's header. `width` and `height` are as stored, before EXIF turns the picture."""

    format: str
    extension: str
    width: int
    height: int
    notes: tuple[str, ...] = ()


class Decoded(NamedTuple):
    """A picture's pixels, and notes for its sender about how they were read."""

    pixels: RgbImage
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Source:
    """A picture whose header passed the checks; nothing is decoded yet."""

    header: ImageHeader
    data: bytes
    picture: ImageFile.ImageFile | None = None
    directory: tiff.Directory | None = None


def identify(data: bytes, max_pixels: int) -> ImageHeader:
    """Reads the header alone, so that a hostile picture costs nothing.

    Raises EmptyImage, NotAnImage, UnsupportedImage, TruncatedImage (the header breaks off),
    AnimatedImage, TooManyPixels or ImageTooCostly.
    """
    return _open(data, max_pixels, pixels=False).header


def decode(data: bytes, max_pixels: int) -> RgbImage:
    """The picture as `(H, W, 3) uint8` RGB, upright, on white, 16 bits scaled to 8.

    Raises what `identify` raises, and TruncatedImage for missing or damaged pixels.
    """
    return read(data, max_pixels).pixels


def read(data: bytes, max_pixels: int, allocate: Allocate | None = None) -> Decoded:
    """As `decode`, with notes. `allocate` provides the array of the pixels."""
    source = _open(data, max_pixels)
    with (
        large_ones_in_turn(source.header.width * source.header.height),
        _faults(source.header.format),
    ):
        return _read(source, max_pixels, allocate or new_array)


def decode_alpha(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """The opacity of each pixel, `(H, W) uint8`, as stored. Raises as `decode` does."""
    source = _open(data, max_pixels)
    with (
        large_ones_in_turn(source.header.width * source.header.height),
        _faults(source.header.format),
    ):
        return alpha(_loaded(source))


def verify(data: bytes, max_pixels: int) -> None:
    """Raises TruncatedImage for a PNG with a wrong checksum, and what `identify` raises.

    `decode` may miss a wrong checksum, since it stops reading once it has all rows.
    """
    header = identify(data, max_pixels)
    with _faults(header.format):
        _plugin(header.format)(BytesIO(data), "").verify()


def encode_original(image: RgbImage) -> bytes:
    """The picture as WEBP. Sides over 16383 px, the format's limit, are scaled down to fit."""
    with large_ones_in_turn(image.shape[0] * image.shape[1]):
        picture = fit_into(Image.fromarray(image), WEBP_MAX_SIDE)
        # Half the time of WEBP's defaults (method 4, quality 80), no more bytes, and half a decibel
        # less.
        return encode_webp(picture, quality=78)


def large_ones_in_turn(pixels: int) -> AbstractContextManager[object]:
    """Hold this while a picture of so many pixels is decoded or encoded. It does not nest.

    A large one needs a few times its own size in memory; so a process needs that only once.
    """
    return _large_one if pixels > LARGE_PIXELS else nullcontext()


def encode_webp(picture: Image.Image, quality: int, method: int = 2) -> bytes:
    """Lossy WEBP (alpha stays exact); method 0 is fastest, 6 smallest."""
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


def warm_up() -> None:
    """Loads every decoder, for a process that only decodes. Each then uses one thread."""
    import cv2

    cv2.setNumThreads(0)
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    Image.preinit()
    for format_ in FORMATS:
        _plugin(format_)


@contextmanager
def _faults(format_: str, what: str = "picture is") -> Iterator[None]:
    """Turns whatever a decoder raises into ours: UnsupportedImage, or TruncatedImage for damage."""
    try:
        yield
    except (MemoryError, ImageError):
        raise
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise MemoryError from error
        raise _fault_of(error, format_, what) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels(
            f"The picture has more pixels than can be read: {_reason(error)}."
        ) from error
    except Exception as error:
        raise _fault_of(error, format_, what) from error


def _fault_of(error: Exception, format_: str, what: str) -> ImageError:
    if _UNSUPPORTED.search(str(error)) or isinstance(error, NotImplementedError):
        return UnsupportedImage(
            f"The {format_} picture is of a kind that is not read ({_reason(error)}); save it as"
            " JPEG or PNG."
        )
    return TruncatedImage(f"The {format_} {what} truncated or damaged: {_reason(error)}.")


def _open(data: bytes, max_pixels: int, *, pixels: bool = True) -> _Source:
    """The picture, once its parts, frames and pixels have passed the checks."""
    if not data:
        raise EmptyImage("The picture is empty: no bytes arrived.")
    format_ = format_of(data)
    if format_ == "TIFF":
        return _open_tiff(data, max_pixels)
    if format_ == "JXL":
        return _open_jxl(data, max_pixels)
    if format_ == "JPEG":
        jpeg.check_header(data)
    elif format_ == "PNG":
        data = png.essential(data, pixels=pixels)
    return _open_with_pillow(format_, data, max_pixels)


def _open_with_pillow(format_: str, data: bytes, max_pixels: int) -> _Source:
    with _faults(format_, "picture's header is"):
        # Not Image.open: its check for bombs warns and refuses by a process-wide limit. Ours is
        # `max_pixels`.
        picture = _plugin(format_)(BytesIO(data), "")
        check_pixels(picture.size, max_pixels)
        frames = getattr(picture, "n_frames", 1) if format_ == "HEIF" else 1
        animated = (
            format_ != "HEIF" and getattr(picture, "is_animated", False) and picture.format != "MPO"
        )
    check_frames(format_, animated)
    notes = (f"The file has {frames} pictures; its primary one was taken.",) if frames > 1 else ()
    return _Source(_header(format_, picture.size, notes), data, picture)


def _open_tiff(data: bytes, max_pixels: int) -> _Source:
    tiff_header = tiff.read_header(data)
    check_pixels(tiff_header.picture.size_wh, max_pixels)
    notes = (
        (f"The TIFF has {tiff_header.pages} pages; the first was taken.",)
        if tiff_header.pages > 1
        else ()
    )
    return _Source(
        _header("TIFF", tiff_header.picture.size_wh, notes), data, directory=tiff_header.picture
    )


def _open_jxl(data: bytes, max_pixels: int) -> _Source:
    size, animated = jxl.header_of(data)
    check_pixels(size, max_pixels)
    check_frames("JXL", animated)
    return _Source(_header("JXL", size), data)


def _header(format_: str, size_wh: tuple[int, int], notes: tuple[str, ...] = ()) -> ImageHeader:
    return ImageHeader(format_, FORMATS[format_], *size_wh, notes)


def check_frames(format_: str, animated: bool) -> None:
    """Raises AnimatedImage for an animated picture."""
    if animated:
        raise AnimatedImage(f"The {format_} picture has more than one frame; send a single one.")


def _plugin(format_: str) -> Callable[..., ImageFile.ImageFile]:
    """The Pillow plugin of a format. The libraries of HEIF and JPEG XL are loaded on first use."""
    if format_ == "HEIF":
        from pi_heif import HeifImageFile, options

        options.DECODE_THREADS = 1
        opener: Callable[..., ImageFile.ImageFile] = HeifImageFile
        return opener
    if format_ == "JXL":
        from pillow_jxl import JpegXLImagePlugin

        JpegXLImagePlugin.DECODE_THREADS = 0
        return JpegXLImagePlugin.JXLImageFile
    return {
        "AVIF": AvifImagePlugin.AvifImageFile,
        "BMP": BmpImagePlugin.BmpImageFile,
        "GIF": GifImagePlugin.GifImageFile,
        "JPEG": JpegImagePlugin.jpeg_factory,
        "PNG": PngImagePlugin.PngImageFile,
        "TIFF": TiffImagePlugin.TiffImageFile,
        "WEBP": WebPImagePlugin.WebPImageFile,
    }[format_]


def format_of(data: bytes) -> str:
    """The format whose signature the bytes begin with.

    Raises NotAnImage, UnsupportedImage or AnimatedImage.
    """
    for format_, signatures in _SIGNATURES.items():
        if data.startswith(signatures):
            return format_
    if tiff.is_tiff(data):
        return "TIFF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if jxl.is_jxl(data):
        return "JXL"
    format_of_media = bmff.format_of(data)
    if format_of_media:
        return format_of_media
    raise _no_picture(data)


def _no_picture(data: bytes) -> ImageError:
    for signature, name in _RAW_SIGNATURES.items():
        if data.startswith(signature):
            return UnsupportedImage(
                f"The picture is a camera's raw file ({name}); export it as JPEG, PNG or TIFF."
            )
    if data[:2] == b"II" and data[6:10] == b"HEAP":
        return UnsupportedImage(
            "The picture is a camera's raw file (Canon CRW); export it as JPEG, PNG or TIFF."
        )
    known = ", ".join(FORMATS)
    return NotAnImage(f"The {len(data)} bytes are no picture of a known format ({known}).")


def check_pixels(size_wh: tuple[int, int], max_pixels: int) -> None:
    """Raises TruncatedImage for a side below 1, and TooManyPixels above the limit."""
    width, height = size_wh
    if width < 1 or height < 1:
        raise TruncatedImage(
            f"The picture's header says {width}x{height} pixels; both sides must be at least 1."
        )
    if width * height > max_pixels:
        raise TooManyPixels(
            f"The picture has {width}x{height} = {width * height} pixels, more than"
            f" MAX_IMAGE_PIXELS = {max_pixels}; scale it down."
        )


def _read(source: _Source, max_pixels: int, allocate: Allocate) -> Decoded:
    if source.directory and source.directory.has_wide_floats:
        return Decoded(floats_to_rgb(source.data, source.directory, allocate), source.header.notes)
    picture, notes = (
        _loaded_jpeg(source) if source.header.format == "JPEG" else (_loaded(source), ())
    )
    # An AVIF's or HEIF's own frames may be larger than its header says.
    check_pixels(picture.size, max_pixels)
    facts = Facts.of(source.header.format, source.data, source.directory)
    return Decoded(upright_rgb(picture, facts, allocate), source.header.notes + notes)


def _loaded(source: _Source) -> Image.Image:
    if source.header.format == "TIFF":
        _know_more_layouts()
    picture = source.picture or _plugin(source.header.format)(BytesIO(source.data), "")
    picture.load()
    return picture.convert("LA") if picture.mode == "La" else picture


def _know_more_layouts() -> None:
    """Adds grey TIFF layouts for which Pillow has the modes but not the table entries.

    These are associated alpha, and samples of more than 8 bits with 0 as white.
    """
    for order, letter in ((b"II", ""), (b"MM", "B")):
        wide = {
            (1, 12): ("I;16", "I;12"),
            (1, 16): (f"I;16{letter}",) * 2,
            (2, 16): ("I", f"I;16{letter}S"),
        }
        for (sample_format, bits), modes in wide.items():
            TiffImagePlugin.OPEN_INFO.setdefault(
                (order, 0, (sample_format,), 1, (bits,), ()), modes
            )
        TiffImagePlugin.OPEN_INFO.setdefault((order, 1, (1,), 1, (12,), ()), ("I;16", "I;12"))
        TiffImagePlugin.OPEN_INFO.setdefault((order, 1, (1,), 1, (8, 8), (1,)), ("La", "La"))


def _loaded_jpeg(source: _Source) -> tuple[Image.Image, tuple[str, ...]]:
    """Loads a JPEG, which may lack its end, as frames cut from a camera's stream do."""
    jpeg.check_scans(source.data)
    if not jpeg.without_its_end(source.data):
        return _loaded(source), ()
    begin, header = source.data.rstrip(b"\xff"), source.header
    noise = jpeg.noise_behind(begin, header.width * header.height)
    picture, other = (
        _plugin("JPEG")(BytesIO(begin + tail), "") for tail in (_END_OF_JPEG, noise + _END_OF_JPEG)
    )
    picture.load()
    other.load()
    unknown = _share_that_differs(picture, other)
    if unknown > MAX_UNKNOWN_SHARE:
        raise TruncatedImage(
            f"The JPEG picture is truncated or damaged: {unknown:.0%} of its pixels are behind the"
            " end of the file."
        )
    return picture, ("The JPEG's end is missing; its pixels are there.",)


def _share_that_differs(one: Image.Image, other: Image.Image) -> float:
    """The share of pixels that differ: those that depend on the bytes behind the end."""
    width, height = one.size
    differing = 0
    for rows in strips(height, width):
        apart = np.asarray(strip_of(one, rows)) != np.asarray(strip_of(other, rows))
        differing += int(np.count_nonzero(apart.any(axis=-1) if apart.ndim == 3 else apart))
    return differing / (width * height)


def _reason(error: Exception) -> str:
    """The decoder's message, without its advice on how to build it."""
    return str(error).partition(" Please ")[0].rstrip(".")[:200] or type(error).__name__
