"""What is sent of a picture."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg_client.errors import PictureUnreadable
from seg_client.pictures import sendable
from seg_pipeline_tests.builders import make_picture


@pytest.mark.parametrize("address", ["http://a/b.png", "https://a/b.png", "s3://a/b.png"])
def test_an_address_is_left_to_the_service(address: str) -> None:
    assert sendable(address) == address


def test_a_path_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"bytes")
    assert sendable(path) == sendable(str(path)) == b"bytes"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PictureUnreadable, match=r"missing\.png"):
        sendable(tmp_path / "missing.png")


def test_an_array_keeps_every_pixel() -> None:
    sent = sendable(make_picture())
    assert isinstance(sent, bytes)
    assert np.array_equal(np.asarray(Image.open(BytesIO(sent))), make_picture())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_an_image_of_any_mode_is_sent(mode: str) -> None:
    sent = sendable(Image.new(mode, (3, 2)))
    assert isinstance(sent, bytes)
    assert Image.open(BytesIO(sent)).size == (3, 2)


def test_an_image_is_sent_as_it_lies_in_memory() -> None:
    """Pillow has not turned it by its EXIF, so the service must not either."""
    file, exif = BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 2)).save(file, "JPEG", exif=exif)
    sent = sendable(Image.open(file))
    assert isinstance(sent, bytes)
    assert 0x0112 not in Image.open(BytesIO(sent)).getexif()


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2, 3)), np.zeros((2, 2, 2), np.uint8), np.zeros((0, 2), np.uint8)]
)
def test_an_array_that_is_no_picture_is_named(array: np.ndarray) -> None:
    with pytest.raises(PictureUnreadable, match="uint8"):
        sendable(array)


def test_anything_else_is_named() -> None:
    with pytest.raises(PictureUnreadable, match="int"):
        sendable(7)  # type: ignore[arg-type]
