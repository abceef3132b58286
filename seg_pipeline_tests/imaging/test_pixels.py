"""Pixels of every mode become RGB: scaled by what the file says, alpha on white."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from seg_pipeline.imaging import pixels
from seg_pipeline.imaging.images import (
    decode,
)
from seg_pipeline_tests import picture_files as files
from seg_pipeline_tests.builders import make_picture, picture_bytes, saved
from seg_pipeline_tests.picture_files import png, png_chunk

LIMIT = 100_000
SIZE = (12, 8)


class TestModes:
    """The pictures that are handled, not refused: each mode's known colours come out as RGB."""

    def test_cmyk_jpeg(self) -> None:
        red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
        assert (
            np.abs(
                decode(saved(red, "JPEG", quality=95), LIMIT)[8, 8].astype(int) - (255, 0, 0)
            ).max()
            < 12
        )

    def test_cmyk_tiff(self) -> None:
        assert decode(saved(Image.new("CMYK", (4, 4), (255, 0, 0, 0)), "TIFF"), LIMIT)[
            0, 0
        ].tolist() == [0, 255, 255]

    def test_ycck_jpeg_of_adobe(self) -> None:
        """Adobe writes CMYK inverted and as YCCK; marker APP14 says so."""
        data = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
        at = data.index(b"Adobe")
        assert data[at + 11] in (0, 2), "the transform byte of APP14"
        ycck = data[: at + 11] + b"\x02" + data[at + 12 :]
        assert decode(ycck, LIMIT).shape == (16, 16, 3)

    def test_16_bit_grey_png_is_scaled_not_clipped(self) -> None:
        grey = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
        decoded = decode(saved(Image.fromarray(grey), "PNG"), LIMIT)
        assert np.abs(decoded[..., 0].astype(int) - grey / 257).max() <= 1
        assert (decoded == decoded[..., :1]).all()

    def test_16_bit_grey_tiff_in_both_byte_orders(self) -> None:
        grey = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
        little = decode(saved(Image.fromarray(grey), "TIFF"), LIMIT)
        big = decode(saved(Image.fromarray(grey.astype(">u2")), "TIFF"), LIMIT)
        assert little[-1, -1, 0] == 255
        assert np.array_equal(little, big)

    def test_16_bit_grey_png_with_a_transparent_grey(self) -> None:
        rows = b"".join(b"\x00" + struct.pack(">HH", 0x1234, 0x8000) for _ in range(2))
        data = png((2, 2), 16, 0, rows, png_chunk(b"tRNS", struct.pack(">H", 0x1234)))
        assert decode(data, LIMIT)[0, :, 0].tolist() == [255, 128]

    def test_16_bit_rgb_png_is_scaled_not_clipped(self) -> None:
        rows = b"\x00" + struct.pack(">HHHHHH", 65535, 32768, 0, 256, 4660, 65280)
        assert decode(png((2, 1), 16, 2, rows), LIMIT)[0].tolist() == [[255, 128, 0], [1, 18, 255]]

    def test_16_bit_rgba_png_is_flattened(self) -> None:
        rows = b"\x00" + struct.pack(">HHHHHHHH", 65535, 0, 0, 65535, 0, 0, 0, 0)
        assert decode(png((2, 1), 16, 6, rows), LIMIT)[0].tolist() == [[255, 0, 0], [255, 255, 255]]

    def test_32_bit_integers_and_floats_are_stretched_over_their_range(self) -> None:
        integers = Image.fromarray(np.array([[-1000, 0], [1000, 3000]], np.int32))
        assert decode(saved(integers, "TIFF"), LIMIT)[..., 0].tolist() == [[0, 63], [127, 255]]
        floats = Image.fromarray(np.array([[0.0, 0.5], [1.0, np.nan]], np.float32))
        assert decode(saved(floats, "TIFF"), LIMIT)[..., 0].tolist() == [[0, 127], [255, 0]]

    def test_a_flat_float_picture_is_black_not_an_error(self) -> None:
        assert not decode(saved(Image.new("F", (3, 3), 7.5), "TIFF"), LIMIT).any()

    def test_1_bit(self) -> None:
        bilevel = Image.fromarray(np.array([[True, False], [False, True]]))
        assert decode(saved(bilevel, "PNG"), LIMIT)[..., 1].tolist() == [[255, 0], [0, 255]]

    def test_grey(self) -> None:
        assert decode(saved(Image.new("L", (2, 2), 77), "PNG"), LIMIT)[0, 0].tolist() == [
            77,
            77,
            77,
        ]

    def test_palette(self) -> None:
        palette = Image.new("RGB", (8, 8), (10, 200, 30)).quantize(4)
        assert decode(saved(palette, "PNG"), LIMIT)[0, 0].tolist() == [10, 200, 30]

    @pytest.mark.parametrize("format", ["PNG", "GIF"])
    def test_palette_with_a_transparent_colour_is_white_there(self, format: str) -> None:
        palette = Image.new("P", (4, 4), 0)
        palette.putpalette([9, 9, 9, 200, 0, 0])
        palette.putpixel((1, 1), 1)
        decoded = decode(saved(palette, format, transparency=0), LIMIT)
        assert decoded[0, 0].tolist() == [255, 255, 255]
        assert decoded[1, 1].tolist() == [200, 0, 0]

    @pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")
    def test_palette_with_half_transparent_colours_is_mixed_with_white(self) -> None:
        palette = Image.new("P", (4, 4), 0)
        palette.putpalette([0, 0, 0])
        assert decode(saved(palette, "PNG", transparency=bytes([128])), LIMIT)[0, 0].tolist() == [
            127,
            127,
            127,
        ]

    def test_alpha_is_flattened_on_white(self) -> None:
        pixels = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)
        decoded = decode(saved(Image.fromarray(pixels), "PNG"), LIMIT)
        assert decoded[0].tolist() == [[255, 0, 0], [255, 255, 255], [127, 127, 127]]

    @pytest.mark.parametrize("format", ["WEBP", "TIFF", "AVIF"])
    def test_alpha_of_other_formats_is_flattened_on_white(self, format: str) -> None:
        assert decode(saved(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), format), LIMIT).min() >= 253

    def test_grey_with_alpha_is_flattened_on_white(self) -> None:
        assert decode(saved(Image.new("LA", (2, 2), (40, 0)), "PNG"), LIMIT)[0, 0].tolist() == [
            255,
            255,
            255,
        ]

    def test_rgb_with_a_transparent_colour_is_white_there(self) -> None:
        data = saved(Image.new("RGB", (2, 2), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
        assert decode(data, LIMIT)[0, 0].tolist() == [255, 255, 255]


class TestOrientation:
    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_every_exif_orientation_is_turned_upright(self, format: str, orientation: int) -> None:
        """The stored picture is the upright one turned back, so decoding must give the upright
        one."""
        upright = Image.new("RGB", (32, 48), "black")
        upright.paste("white", (0, 0, 16, 16))
        turned_back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)
        stored = upright if turned_back is None else upright.transpose(Image.Transpose(turned_back))
        decoded = decode(
            saved(stored, format, exif=files.with_orientation(stored, orientation)), LIMIT
        )
        assert decoded.shape == (48, 32, 3)
        assert decoded[8, 8].min() > 200
        assert max(decoded[8, 24].max(), decoded[40, 8].max(), decoded[40, 24].max()) < 50

    @pytest.mark.parametrize("orientation", [0, 9, 65535])
    def test_an_orientation_that_does_not_exist_is_ignored(self, orientation: int) -> None:
        picture = Image.new("RGB", (6, 4))
        assert decode(
            saved(picture, "JPEG", exif=files.with_orientation(picture, orientation)), LIMIT
        ).shape == (4, 6, 3)

    def test_a_damaged_exif_block_is_ignored(self) -> None:
        data = saved(
            Image.new("RGB", (6, 4), "red"),
            "JPEG",
            exif=b"Exif\x00\x00garbage that is no TIFF header",
        )
        assert decode(data, LIMIT).shape == (4, 6, 3)


class TestColourProfiles:
    def test_an_srgb_profile_changes_nothing(self) -> None:
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        assert np.array_equal(decode(picture_bytes(icc_profile=profile), LIMIT), make_picture())

    def test_another_profile_is_converted_to_srgb(self) -> None:
        """Phones write Display P3; without the conversion every cut-out would look dull."""
        picture = Image.new("RGB", (2, 2), (128, 128, 128))
        decoded = decode(saved(picture, "PNG", icc_profile=linear_light_profile()), LIMIT)
        assert decoded[0, 0, 0] == pytest.approx(188, abs=2), "linear 50% is sRGB 188"

    @pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
    @pytest.mark.parametrize("profile", [b"no profile", b"\x00" * 200])
    def test_a_damaged_profile_is_ignored(self, mode: str, profile: bytes) -> None:
        assert decode(saved(Image.new(mode, (4, 4)), "TIFF", icc_profile=profile), LIMIT).shape == (
            4,
            4,
            3,
        )

    def test_a_profile_for_another_kind_of_picture_is_ignored(self) -> None:
        grey = saved(Image.new("L", (2, 2), 90), "PNG", icc_profile=linear_light_profile())
        assert decode(grey, LIMIT)[0, 0].tolist() == [90, 90, 90]

    def test_lab_tiff(self) -> None:
        white = Image.new("LAB", (2, 2), (255, 128, 128))
        assert decode(saved(white, "TIFF"), LIMIT).min() >= 253


def linear_light_profile() -> bytes:
    """sRGB's profile with its tone curves made straight lines, and another name."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for index in range(struct.unpack_from(">I", data, 128)[0]):
        name, offset, size = struct.unpack_from(">4sII", data, 132 + 12 * index)
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            data[offset : offset + 12] = b"curv" + bytes(8)
        if name == b"desc":
            data[offset + 12 : offset + size] = bytes(data[offset + 12 : offset + size]).replace(
                b"s\x00R", b"x\x00y"
            )
    return bytes(data)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
def test_a_picture_decoded_in_strips_has_the_same_pixels(
    monkeypatch: pytest.MonkeyPatch, mode: str, orientation: int
) -> None:
    """A second copy of a hundred megapixels is not made; nor a seam."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(
        Image.fromarray(make_picture(37, 23)).convert(mode),
        "TIFF" if mode == "CMYK" else "PNG",
        exif=exif,
    )
    whole = decode(data, LIMIT)
    monkeypatch.setattr(pixels, "STRIP_PIXELS", 100)
    assert np.array_equal(decode(data, LIMIT), whole)


@pytest.mark.parametrize("header_bytes", [108, 124])
def test_an_alpha_of_nothing_but_0_is_no_alpha(header_bytes: int) -> None:
    """Photoshop and the Windows clipboard write it so, and Windows shows the colours."""
    picture = make_picture(*SIZE)
    bgra = np.dstack([picture[..., ::-1], np.zeros(SIZE[::-1], np.uint8)])[::-1].tobytes()
    assert np.array_equal(decode(files.bmp_with_alpha(*SIZE, bgra, header_bytes), LIMIT), picture)


def test_an_alpha_that_says_something_is_heeded() -> None:
    picture, alpha = make_picture(*SIZE), np.full(SIZE[::-1], 255, np.uint8)
    alpha[:, :3] = 0
    bgra = np.dstack([picture[..., ::-1], alpha])[::-1].tobytes()
    decoded = decode(files.bmp_with_alpha(*SIZE, bgra), LIMIT)
    assert (decoded[:, :3] == 255).all()
    assert np.array_equal(decoded[:, 3:], picture[:, 3:])
