"""Turns what a caller has into what is sent: bytes, or an address that the service fetches."""

from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from seg_client.errors import PictureUnreadable
from seg_client.extras import library

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

Picture: TypeAlias = "str | PathLike[str] | bytes | Image | np.ndarray[Any, Any]"
"""A path, an http(s):// or s3:// address, a file's bytes, a Pillow image, or an array `(H, W)` or
`(H, W, 3 or 4) uint8`, RGB."""

_ADDRESSES = ("http://", "https://", "s3://")
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")


def sendable(picture: "Picture | None") -> str | bytes:
    """The address as it is, or a file's bytes; none of None. Raises PictureUnreadable."""
    if picture is None:
        return b""
    if isinstance(picture, str) and picture.startswith(_ADDRESSES):
        return picture
    if isinstance(picture, str | PathLike):
        return _read(Path(picture))
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    return _png(picture if hasattr(picture, "save") else _image(picture))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise PictureUnreadable(f"{str(path)[:200]!r} cannot be read: {error}.") from error


def _image(array: Any) -> Any:
    if not hasattr(array, "__array_interface__"):
        raise PictureUnreadable(
            f"{type(array).__name__} is no picture; give a path, an address, bytes, a Pillow image"
            " or an array."
        )
    pillow = library("PIL.Image", "a picture as an array", "pictures")
    if str(array.dtype) != "uint8" or not _is_picture_shape(array.shape):
        raise PictureUnreadable(
            f"an array of shape {array.shape} and dtype {array.dtype} is no picture; give"
            " (H, W), (H, W, 3) or (H, W, 4) of uint8."
        )
    return pillow.fromarray(array)


def _is_picture_shape(shape: tuple[int, ...]) -> bool:
    return 0 not in shape and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4)))


def _png(image: Any) -> bytes:
    """The pixels as they are: without EXIF, which would have the service turn them."""
    file = BytesIO()
    shown = image if image.mode in _PNG_MODES else image.convert("RGB")
    shown.save(file, "PNG", compress_level=1, exif=b"")
    return file.getvalue()
