"""TIFF: what a file says of its samples counts, and a file that is no picture for us is named."""

import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from seg_pipeline.errors import (
    AnimatedImage,
    ImageTooCostly,
    UnsupportedImage,
)
from seg_pipeline.imaging.formats import tiff
from seg_pipeline.imaging.images import decode, identify, read
from seg_pipeline_tests import picture_files as files
from seg_pipeline_tests.builders import make_picture
from seg_pipeline_tests.picture_files import GREY, SIZE

LIMIT = 100_000
BITS, PHOTOMETRIC, SAMPLES, EXTRA, FORMAT = 258, 262, 277, 338, 339


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bits_whose_0_is_white_are_no_negative(order: str) -> None:
    data = GREY.astype(order + "u2").tobytes()
    white_is_0, black_is_0 = (
        decode(files.tiff(SIZE, {BITS: (3, [16]), PHOTOMETRIC: (3, [zero])}, data, order), LIMIT)
        for zero in (0, 1)
    )
    assert np.array_equal(black_is_0, files.grey_rgb(GREY >> 8))
    assert np.array_equal(white_is_0, files.grey_rgb((65535 - GREY) >> 8))


@pytest.mark.parametrize("order", ["<", ">"])
def test_12_bits_are_scaled_as_12_bits(order: str) -> None:
    packed = bytes([0x00, 0x0F, 0xFF])  # 0 and 4095
    for zero_is, expected in ((1, [0, 255]), (0, [255, 0])):
        data = files.tiff((2, 1), {BITS: (3, [12]), PHOTOMETRIC: (3, [zero_is])}, packed, order)
        assert decode(data, LIMIT)[0, :, 0].tolist() == expected


@pytest.mark.parametrize("order", ["<", ">"])
def test_signed_16_bits_are_stretched_over_their_range(order: str) -> None:
    values = np.array([[-1000, 0, 1000]], order + "i2").tobytes()
    for zero_is, expected in ((1, [0, 127, 255]), (0, [255, 128, 0])):
        tags = {BITS: (3, [16]), PHOTOMETRIC: (3, [zero_is]), FORMAT: (3, [2])}
        assert decode(files.tiff((3, 1), tags, values, order), LIMIT)[0, :, 0].tolist() == expected


def test_32_bits_unsigned_do_not_wrap_around() -> None:
    values = np.array([[0, 2**31, 2**32 - 1]], "<u4")
    data = files.tiff((3, 1), {BITS: (3, [32]), PHOTOMETRIC: (3, [1])}, values.tobytes())
    assert decode(data, LIMIT)[0, :, 0].tolist() == [0, 127, 255]


@pytest.mark.parametrize("code", ["f4", "f8"])
@pytest.mark.parametrize("zero_is", [0, 1])
def test_floats_and_doubles_are_stretched_over_their_range(code: str, zero_is: int) -> None:
    values = np.array([[-1.0, 0.0, 1.0]], "<" + code)
    tags = {BITS: (3, [values.itemsize * 8]), PHOTOMETRIC: (3, [zero_is]), FORMAT: (3, [3])}
    found = decode(files.tiff((3, 1), tags, values.tobytes()), LIMIT)[0, :, 0].tolist()
    assert found == ([0, 127, 255] if zero_is else [255, 128, 0])


def test_three_floats_a_pixel_are_stretched_together() -> None:
    values = np.array([[[0.0, 0.5, 1.0], [2.0, 0.0, 1.0]]], "<f4")
    tags = {BITS: (3, [32] * 3), PHOTOMETRIC: (3, [2]), SAMPLES: (3, [3]), FORMAT: (3, [3] * 3)}
    assert decode(files.tiff((2, 1), tags, values.tobytes()), LIMIT).tolist() == [
        [[0, 63, 127], [255, 0, 127]]
    ]


@pytest.mark.parametrize("association", [1, 2])
@pytest.mark.parametrize("colours", [1, 3])
def test_alpha_is_flattened_however_it_is_stored(association: int, colours: int) -> None:
    alpha = np.full(SIZE[::-1], 255, np.uint8)
    alpha[:, :4] = 0
    stored = np.where(alpha > 0, 30, 0).astype(np.uint8)
    samples = np.dstack([stored] * colours + [alpha])
    tags = {
        BITS: (3, [8] * (colours + 1)), PHOTOMETRIC: (3, [1 if colours == 1 else 2]),
        SAMPLES: (3, [colours + 1]), EXTRA: (3, [association]),
    }  # fmt: skip
    decoded = decode(files.tiff(SIZE, tags, samples.tobytes()), LIMIT)
    assert np.array_equal(decoded, files.grey_rgb(np.where(alpha > 0, 30, 255)))


def test_a_smaller_version_behind_the_picture_is_no_second_frame() -> None:
    assert np.array_equal(decode(paged(1, 0), LIMIT), make_picture())


def test_pages_that_are_called_pages_are_a_document_of_which_the_first_is_taken_and_noted() -> None:
    found = read(paged(2, 2), LIMIT)
    assert np.array_equal(found.pixels, make_picture())
    assert found.notes == ("The TIFF has 2 pages; the first was taken.",)


def test_two_pictures_that_are_not_called_pages_are_refused() -> None:
    with pytest.raises(AnimatedImage, match="more than one frame"):
        identify(paged(0, 0), LIMIT)


@pytest.mark.parametrize(("tags", "name"), [
    ({254: (4, [1]), 330: (4, [9]), 50706: (1, [1, 4, 0, 0])}, "DNG"),
    ({PHOTOMETRIC: (3, [32803]), BITS: (3, [16])}, "sensor data"),
    ({259: (3, [34713])}, "sensor data"),
])  # fmt: skip
def test_a_cameras_raw_file_is_refused_by_name_and_not_taken_for_its_thumbnail(
    tags: dict[int, files.Tag], name: str
) -> None:
    plain = {BITS: (3, [8] * 3), PHOTOMETRIC: (3, [2]), SAMPLES: (3, [3])}
    with pytest.raises(UnsupportedImage, match=f"camera's raw file .*{name}"):
        identify(files.tiff(SIZE, {**plain, **tags}, bytes(12 * 8 * 3)), LIMIT)


@pytest.mark.parametrize(("data", "name"), [
    (b"II*\0\x10\0\0\0CR\x02\0" + bytes(40), "CR2"), (b"IIU\0" + bytes(40), "RW2"),
    (b"IIRO" + bytes(40), "ORF"), (b"FUJIFILMCCD-RAW 0201" + bytes(40), "RAF"),
    (b"FOVb" + bytes(40), "X3F"),
    (files.media_file(b"crx "), "CR3"), (b"II\x1a\0\0\0HEAPCCDR" + bytes(40), "CRW"),
])  # fmt: skip
def test_raw_files_with_signatures_of_their_own_are_refused_by_name(data: bytes, name: str) -> None:
    if b"CR\x02" in data:
        whole = files.tiff(SIZE, {BITS: (3, [8])}, bytes(96))
        data = whole[:4] + struct.pack("<I", 16) + b"CR\x02\0\0\0\0\0" + whole[8:]
    with pytest.raises(UnsupportedImage, match=name):
        identify(data, LIMIT)


@pytest.mark.parametrize(("tags", "words"), [
    ({259: (3, [34887])}, "LERC"), ({259: (3, [50002])}, "JPEG XL"),
    ({259: (3, [34712])}, "JPEG 2000"),
    ({BITS: (3, [8] * 5), PHOTOMETRIC: (3, [5]), SAMPLES: (3, [5]), EXTRA: (3, [2])},
     "not read"),
    ({BITS: (3, [24]), PHOTOMETRIC: (3, [1])}, "not read"),
])  # fmt: skip
def test_a_whole_tiff_of_a_rare_kind_is_called_unsupported_and_not_damaged(
    tags: dict[int, files.Tag], words: str
) -> None:
    plain = {BITS: (3, [8]), PHOTOMETRIC: (3, [1])}
    with pytest.raises(UnsupportedImage, match=words):
        decode(files.tiff(SIZE, {**plain, **tags}, bytes(12 * 8 * 5)), LIMIT)


def test_a_tile_much_larger_than_the_picture_is_refused_by_the_header() -> None:
    """160 bytes that would take two gigabytes."""
    tags = {
        BITS: (3, [8]),
        PHOTOMETRIC: (3, [1]),
        322: (4, [32_000]),
        323: (4, [32_000]),
        324: (4, [9]),
        325: (4, [9]),
    }
    with pytest.raises(ImageTooCostly, match="32000x32000"):
        identify(files.tiff((16, 16), tags, b""), LIMIT)


def test_directories_that_lead_in_a_circle_end() -> None:
    data = bytearray(files.tiff(SIZE, {BITS: (3, [8]), PHOTOMETRIC: (3, [1])}, bytes(96)))
    count = struct.unpack_from("<H", data, 8)[0]
    struct.pack_into("<I", data, 10 + 12 * count, 8)
    assert decode(bytes(data), LIMIT).shape == (8, 12, 3)


def test_entries_without_end_are_refused() -> None:
    entry = struct.pack("<HHII", 60_000, 2, 1_000, 8)
    table = b"".join([struct.pack("<H", 65_535), entry * 65_535, b"\0\0\0\0"])
    with pytest.raises(ImageTooCostly, match="again and again"):
        tiff.read_header(b"II*\0\x08\0\0\0" + table)


def paged(second: int, first: int) -> bytes:
    """A TIFF of two directories with their NewSubfileType."""
    picture = Image.fromarray(make_picture())
    other = picture.resize((8, 6))
    picture.encoderinfo, other.encoderinfo = {"tiffinfo": {254: first}}, {"tiffinfo": {254: second}}
    buffer = BytesIO()
    picture.save(buffer, "TIFF", save_all=True, append_images=[other], tiffinfo={254: first})
    return buffer.getvalue()
