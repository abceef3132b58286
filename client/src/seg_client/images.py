"""Files of the service as Pillow's images."""

from io import BytesIO
from typing import TYPE_CHECKING

from seg_client.extras import library

if TYPE_CHECKING:
    from PIL.Image import Image


def image_of(data: bytes) -> "Image":
    """The image, decoded."""
    image: Image = library("PIL.Image", "a cut-out as an image", "pictures").open(BytesIO(data))
    image.load()
    return image
