"""Whatever bytes arrive end as an upright RGB array or as an ImageError that says why."""

import threading
import warnings
from io import BytesIO
from typing import Any

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
from seg_pipeline.imaging import images
from seg_pipeline.imaging.images import (
    WEBP_MAX_SIDE,
    decode,
    encode_original,
    fit_into,
    identify,
    scaled_size,
)
from seg_pipeline.segmenters.parity.pictures import parity_pictures
from seg_pipeline_tests import picture_files as files
from seg_pipeline_tests.builders import make_picture, picture_bytes, saved
from seg_pipeline_tests.picture_files import png

LIMIT = 100_000
LOSSLESS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("WEBP", {"lossless": True}),
]
LOSSY: list[tuple[str, dict[str, Any]]] = [
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


def decibels(encoded: bytes, picture: RgbImage) -> float:
    """The peak signal-to-noise ratio."""
    wrong = np.asarray(Image.open(BytesIO(encoded)).convert("RGB")).astype(float) - picture
    return float(20 * np.log10(255 / np.sqrt(np.square(wrong).mean())))


class TestFormats:
    @pytest.mark.parametrize(("format", "options"), LOSSLESS, ids=str)
    def test_lossless_formats_give_the_very_pixels(
        self, format: str, options: dict[str, Any]
    ) -> None:
        picture = make_picture(31, 17)
        assert np.array_equal(decode(picture_bytes(picture, format, **options), LIMIT), picture)

    @pytest.mark.parametrize(("format", "options"), LOSSY, ids=str)
    def test_lossy_formats_give_nearly_the_pixels(
        self, format: str, options: dict[str, Any]
    ) -> None:
        picture = np.full((17, 31, 3), (200, 90, 30), np.uint8)
        decoded = decode(picture_bytes(picture, format, **options), LIMIT)
        assert decoded.shape == (17, 31, 3)
        assert np.abs(decoded.astype(int) - picture).max() <= 4

    @pytest.mark.parametrize(("format", "options"), LOSSLESS + LOSSY, ids=str)
    def test_identify_names_format_extension_and_size(
        self, format: str, options: dict[str, Any]
    ) -> None:
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


class TestRefusals:
    def test_no_bytes(self) -> None:
        with pytest.raises(EmptyImage):
            identify(b"", LIMIT)

    @pytest.mark.parametrize(
        "data", [b"x", b"hello", b"<html>", b"%PDF-1.7", b"<svg/>", b"\x00" * 100, b"\xff\xd8"]
    )
    def test_bytes_that_are_no_picture(self, data: bytes) -> None:
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
    def test_a_tiny_file_that_claims_a_huge_picture_is_refused_by_its_header(
        self, side: int
    ) -> None:
        """Also where Pillow itself would warn or refuse: the limit is ours, and no warning
        escapes."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(TooManyPixels):
                decode(png((side, side), 8, 2, b""), 50_000_000)

    def test_a_limit_above_pillows_own_is_obeyed(self) -> None:
        assert identify(png((15_000, 15_000), 8, 2, b""), 300_000_000).width == 15_000

    @pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF"])
    def test_the_other_formats_headers_are_believed_too(self, format: str) -> None:
        with pytest.raises(TooManyPixels):
            identify(picture_bytes(make_picture(64, 64), format), 64 * 64 - 1)

    @pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
    def test_more_than_one_frame(self, format: str) -> None:
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        with pytest.raises(AnimatedImage, match="one frame"):
            identify(saved(frames[0], format, save_all=True, append_images=frames[1:]), LIMIT)

    @pytest.mark.parametrize(("format", "options"), LOSSLESS + LOSSY, ids=str)
    @pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
    def test_a_picture_that_breaks_off(
        self, format: str, options: dict[str, Any], kept: float
    ) -> None:
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
    def test_a_picture_without_pixels(self, size: tuple[int, int]) -> None:
        with pytest.raises(ImageError):
            decode(png(size, 8, 2, b""), LIMIT)


class TestAnyBytes:
    """Nothing but an array or an ImageError, whatever the bytes: a stray exception would take the
    worker's batch."""

    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @pytest.mark.filterwarnings("ignore::UserWarning")
    @given(st.data())
    def test_damaged_files(self, data: st.DataObject) -> None:
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
    def test_noise_behind_a_signature(self, signature: bytes, noise: bytes) -> None:
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
    exif = files.with_orientation(Image.fromarray(picture), 6)
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
    wrong: list[int] = []

    def work(data: bytes, expected: RgbImage) -> None:
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

    @pytest.mark.process
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
    width: int, height: int, longer_side: int
) -> None:
    scaled = scaled_size((width, height), longer_side)
    assert max(scaled) == longer_side
    assert min(scaled) >= 1
    assert abs(scaled[0] * height - scaled[1] * width) <= max(width, height)


def test_large_pictures_are_taken_one_at_a_time() -> None:
    with (
        images.large_ones_in_turn(images.LARGE_PIXELS),
        images.large_ones_in_turn(images.LARGE_PIXELS),
    ):
        pass
    with images.large_ones_in_turn(images.LARGE_PIXELS + 1):
        assert images._large_one.locked()
