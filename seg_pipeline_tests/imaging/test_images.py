"""Whatever bytes arrive end as an upright RGB array or as an ImageError that says why."""

import struct
import threading
import warnings
from io import BytesIO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from seg_pipeline.domain import RgbImage
from seg_pipeline.errors import (
    AnimatedImage,
    EmptyImage,
    ImageError,
    NotAnImage,
    TooManyPixels,
    TruncatedImage,
)
from seg_pipeline.imaging import images, pixels
from seg_pipeline.imaging.images import (
    WEBP_MAX_SIDE,
    decode,
    encode_original,
    fit_into,
    identify,
    scaled_size,
)
from seg_pipeline.segmenters.parity.pictures import parity_pictures
from seg_pipeline_tests.builders import make_picture, picture_bytes, saved
from seg_pipeline_tests.picture_files import png, png_chunk

LIMIT = 100_000
LOSSLESS = [
    ("PNG", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("WEBP", {"lossless": True}),
]
LOSSY = [
    ("JPEG", {"quality": 95}),
    ("JPEG", {"progressive": True, "quality": 95}),
    ("AVIF", {"quality": 95}),
    ("GIF", {}),
]
EXTENSIONS = {
    "PNG": "png",
    "BMP": "bmp",
    "TIFF": "tiff",
    "WEBP": "webp",
    "JPEG": "jpg",
    "AVIF": "avif",
    "GIF": "gif",
}


def with_orientation(picture: Image.Image, orientation: int) -> Image.Exif:
    exif = picture.getexif()
    exif[0x0112] = orientation
    return exif


def decibels(encoded: bytes, picture: RgbImage) -> float:
    """The peak signal-to-noise ratio."""
    wrong = np.asarray(Image.open(BytesIO(encoded)).convert("RGB")).astype(float) - picture
    return float(20 * np.log10(255 / np.sqrt(np.square(wrong).mean())))


class TestFormats:
    @pytest.mark.parametrize(("format", "options"), LOSSLESS, ids=str)
    def test_lossless_formats_give_the_very_pixels(self, format, options) -> None:
        picture = make_picture(31, 17)
        assert np.array_equal(decode(picture_bytes(picture, format, **options), LIMIT), picture)

    @pytest.mark.parametrize(("format", "options"), LOSSY, ids=str)
    def test_lossy_formats_give_nearly_the_pixels(self, format, options) -> None:
        picture = np.full((17, 31, 3), (200, 90, 30), np.uint8)
        decoded = decode(picture_bytes(picture, format, **options), LIMIT)
        assert decoded.shape == (17, 31, 3)
        assert np.abs(decoded.astype(int) - picture).max() <= 4

    @pytest.mark.parametrize(("format", "options"), LOSSLESS + LOSSY, ids=str)
    def test_identify_names_format_extension_and_size(self, format, options) -> None:
        header = identify(picture_bytes(make_picture(31, 17), format, **options), LIMIT)
        assert (header.format, header.extension) == (format, EXTENSIONS[format])
        assert (header.width, header.height) == (31, 17)

    def test_the_array_is_writable_contiguous_and_8_bit(self) -> None:
        decoded = decode(picture_bytes(), LIMIT)
        assert decoded.dtype == np.uint8
        assert decoded.flags.writeable
        assert decoded.flags.c_contiguous

    def test_a_phones_mpo_is_a_jpeg_of_its_first_frame(self) -> None:
        """Phones store a depth map or a second lens as another frame behind a JPEG; it is no
        animation."""
        first, second = Image.new("RGB", (20, 10), "red"), Image.new("RGB", (20, 10), "blue")
        data = saved(first, "MPO", save_all=True, append_images=[second])
        assert identify(data, LIMIT).format == "JPEG"
        red, _, blue = decode(data, LIMIT)[5, 5]
        assert red > 240
        assert blue < 20

    def test_identify_decodes_nothing(self) -> None:
        """A picture whose pixels are missing altogether still has a header."""
        assert identify(picture_bytes(make_picture(90, 60))[:60], LIMIT).width == 90


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
    def test_palette_with_a_transparent_colour_is_white_there(self, format) -> None:
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
    def test_alpha_of_other_formats_is_flattened_on_white(self, format) -> None:
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
    def test_every_exif_orientation_is_turned_upright(self, format, orientation) -> None:
        """The stored picture is the upright one turned back, so decoding must give the upright
        one."""
        upright = Image.new("RGB", (32, 48), "black")
        upright.paste("white", (0, 0, 16, 16))
        turned_back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)
        stored = upright if turned_back is None else upright.transpose(Image.Transpose(turned_back))
        decoded = decode(saved(stored, format, exif=with_orientation(stored, orientation)), LIMIT)
        assert decoded.shape == (48, 32, 3)
        assert decoded[8, 8].min() > 200
        assert max(decoded[8, 24].max(), decoded[40, 8].max(), decoded[40, 24].max()) < 50

    @pytest.mark.parametrize("orientation", [0, 9, 65535])
    def test_an_orientation_that_does_not_exist_is_ignored(self, orientation) -> None:
        picture = Image.new("RGB", (6, 4))
        assert decode(
            saved(picture, "JPEG", exif=with_orientation(picture, orientation)), LIMIT
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
    def test_a_damaged_profile_is_ignored(self, mode, profile) -> None:
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


class TestRefusals:
    def test_no_bytes(self) -> None:
        with pytest.raises(EmptyImage):
            identify(b"", LIMIT)

    @pytest.mark.parametrize(
        "data", [b"x", b"hello", b"<html>", b"%PDF-1.7", b"<svg/>", b"\x00" * 100, b"\xff\xd8"]
    )
    def test_bytes_that_are_no_picture(self, data) -> None:
        with pytest.raises(NotAnImage, match="PNG"):
            identify(data, LIMIT)

    def test_a_format_that_is_not_on_the_list_is_not_even_tried(self) -> None:
        """Pillow would hand PostScript to another program."""
        for data in (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            saved(Image.new("RGB", (9, 9)), "PPM"),
        ):
            with pytest.raises(NotAnImage):
                decode(data, LIMIT)

    def test_more_pixels_than_the_limit_name_value_limit_and_setting(self) -> None:
        with pytest.raises(TooManyPixels, match=r"40x30 = 1200 .* MAX_IMAGE_PIXELS = 1199"):
            identify(picture_bytes(make_picture(40, 30)), 1199)
        assert identify(picture_bytes(make_picture(40, 30)), 1200).width == 40

    @pytest.mark.parametrize("side", [12_000, 30_000, 2**31 - 1])
    def test_a_tiny_file_that_claims_a_huge_picture_is_refused_by_its_header(self, side) -> None:
        """Also where Pillow itself would warn or refuse: the limit is ours, and no warning
        escapes."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(TooManyPixels):
                decode(png((side, side), 8, 2, b""), 50_000_000)

    def test_a_limit_above_pillows_own_is_obeyed(self) -> None:
        assert identify(png((15_000, 15_000), 8, 2, b""), 300_000_000).width == 15_000

    @pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF"])
    def test_the_other_formats_headers_are_believed_too(self, format) -> None:
        with pytest.raises(TooManyPixels):
            identify(picture_bytes(make_picture(64, 64), format), 64 * 64 - 1)

    @pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
    def test_more_than_one_frame(self, format) -> None:
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        with pytest.raises(AnimatedImage, match="one frame"):
            identify(saved(frames[0], format, save_all=True, append_images=frames[1:]), LIMIT)

    @pytest.mark.parametrize(("format", "options"), LOSSLESS + LOSSY, ids=str)
    @pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
    def test_a_picture_that_breaks_off(self, format, options, kept) -> None:
        rng = np.random.default_rng(0)
        whole = picture_bytes(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8), format, **options)
        with pytest.raises(TruncatedImage, match="truncated or damaged"):
            decode(whole[: int(len(whole) * kept)], LIMIT)

    def test_a_png_with_a_wrong_checksum(self) -> None:
        data = bytearray(picture_bytes())
        data[29] ^= 0xFF
        with pytest.raises(TruncatedImage):
            decode(bytes(data), LIMIT)

    @pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
    def test_a_picture_without_pixels(self, size) -> None:
        with pytest.raises(ImageError):
            decode(png(size, 8, 2, b""), LIMIT)


class TestAnyBytes:
    """Nothing but an array or an ImageError, whatever the bytes: a stray exception would take the
    worker's batch."""

    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @pytest.mark.filterwarnings("ignore::UserWarning")
    @given(st.data())
    def test_damaged_files(self, data) -> None:
        whole = data.draw(st.sampled_from(SAMPLES))
        damaged = bytearray(whole[: data.draw(st.integers(1, len(whole)))])
        for _ in range(data.draw(st.integers(0, 8))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        assert_array_or_image_error(bytes(damaged))

    @settings(max_examples=100, deadline=None)
    @pytest.mark.filterwarnings("ignore::UserWarning")
    @given(st.sampled_from(SIGNATURES := [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a",
                                          b"BM", b"II*\x00",
                                          b"MM\x00*", b"RIFF\x00\x00\x00\x00WEBP",
                                          b"\x00\x00\x00\x1cftypavif", b""]),
           st.binary(max_size=200))  # fmt: skip
    def test_noise_behind_a_signature(self, signature, noise) -> None:
        assert_array_or_image_error(signature + noise)


def assert_array_or_image_error(data: bytes) -> None:
    try:
        header = identify(data, LIMIT)
        decoded = decode(data, LIMIT)
    except ImageError:
        return
    assert decoded.dtype == np.uint8
    assert sorted(decoded.shape) == sorted((header.height, header.width, 3))


def _samples() -> list[bytes]:
    picture = make_picture(24, 16)
    exif = with_orientation(Image.fromarray(picture), 6)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = [picture_bytes(picture, format, **options) for format, options in LOSSLESS + LOSSY]
    odd = [
        picture_bytes(picture, "JPEG", exif=exif, icc_profile=profile),
        saved(Image.fromarray(picture).convert("CMYK"), "JPEG"),
        saved(Image.fromarray(picture).quantize(16), "PNG", transparency=3),
        saved(Image.fromarray(picture).convert("RGBA"), "WEBP", exif=exif),
        saved(Image.fromarray(picture), "TIFF", compression="jpeg"),
        saved(Image.fromarray(picture).convert("CMYK"), "TIFF", icc_profile=profile),
        saved(Image.fromarray(picture[..., 0].astype(np.uint16) * 257), "PNG"),
        saved(
            Image.fromarray(picture),
            "PNG",
            save_all=True,
            append_images=[Image.new("RGB", (24, 16))],
        ),
    ]
    return plain + odd


SAMPLES = _samples()


def test_decoding_in_threads_gives_the_same_pixels() -> None:
    """The API identifies and the worker decodes in threads; nothing process-wide may be set."""
    jobs = [
        (picture_bytes(make_picture(200, 150, seed), "PNG"), make_picture(200, 150, seed))
        for seed in range(8)
    ]
    wrong = []

    def work(data, expected) -> None:
        wrong.extend(1 for _ in range(5) if not np.array_equal(decode(data, LIMIT), expected))

    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class TestOriginal:
    def test_the_original_is_webp_of_the_same_size(self) -> None:
        original = Image.open(BytesIO(encode_original(make_picture(60, 40))))
        assert (original.format, original.mode, original.size) == ("WEBP", "RGB", (60, 40))

    def test_the_original_looks_like_the_picture(self) -> None:
        picture = make_picture(64, 64)
        encoded = np.array(Image.open(BytesIO(encode_original(picture))))
        assert np.abs(encoded.astype(int) - picture).mean() < 6

    def test_the_original_is_no_larger_than_by_default_and_nearly_as_good(self) -> None:
        for picture in (picture for group in parity_pictures("yolov8n-seg") for picture in group):
            ours, default = encode_original(picture), saved(Image.fromarray(picture), "WEBP")
            assert len(ours) <= len(default)
            assert decibels(ours, picture) > decibels(default, picture) - 1.5

    def test_a_side_over_webps_limit_is_scaled_down_to_it(self) -> None:
        original = Image.open(BytesIO(encode_original(np.zeros((2, 20_000, 3), np.uint8))))
        assert original.size == (WEBP_MAX_SIDE, 2)

    def test_a_picture_that_fits_is_left_alone(self) -> None:
        picture = Image.new("RGB", (9, 9))
        assert fit_into(picture, 9) is picture


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 8192))
def test_scaling_makes_the_longer_side_exact_and_keeps_the_aspect(
    width, height, longer_side
) -> None:
    scaled = scaled_size((width, height), longer_side)
    assert max(scaled) == longer_side
    assert min(scaled) >= 1
    assert abs(scaled[0] * height - scaled[1] * width) <= max(width, height)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
def test_a_picture_decoded_in_strips_has_the_same_pixels(monkeypatch, mode, orientation) -> None:
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


def test_large_pictures_are_taken_one_at_a_time() -> None:
    with (
        images.large_ones_in_turn(images.LARGE_PIXELS),
        images.large_ones_in_turn(images.LARGE_PIXELS),
    ):
        pass
    with images.large_ones_in_turn(images.LARGE_PIXELS + 1):
        assert images._large_one.locked()
