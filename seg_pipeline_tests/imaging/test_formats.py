"""What a file says of its samples counts, what viewers pass over does no harm, and a refusal says
the right thing."""

import struct
import zlib
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from seg_pipeline.domain import RgbImage
from seg_pipeline.errors import (
    AnimatedImage,
    ImageTooCostly,
    NotAnImage,
    TooManyPixels,
    TruncatedImage,
    UnsupportedImage,
)
from seg_pipeline.imaging.formats import jpeg, jxl, png, tiff
from seg_pipeline.imaging.images import decode, identify, read
from seg_pipeline.local.sample import BUNDLED
from seg_pipeline_tests import picture_files as files
from seg_pipeline_tests.builders import make_picture, picture_bytes, saved

LIMIT = 100_000
SIZE = (12, 8)
GREY = np.full(SIZE[::-1], 3000, np.uint16)
GREY[2:6, 3:8] = 60_000
BITS, PHOTOMETRIC, SAMPLES, EXTRA, FORMAT = 258, 262, 277, 338, 339


def grey_rgb(grey: np.ndarray) -> RgbImage:
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def blocks(width: int = 48, height: int = 32) -> RgbImage:
    """Flat colours, which lossy formats keep."""
    picture = np.full((height, width, 3), (200, 90, 30), np.uint8)
    picture[: height // 2, : width // 2] = (20, 160, 60)
    return picture


class TestPng:
    PICTURE = make_picture(*SIZE)
    ROWS = files.png_rows([row.tobytes() for row in PICTURE])

    def test_a_megabyte_of_text_beside_the_pixels_is_passed_over(self) -> None:
        """A workflow or generation parameters, which tools for drawing keep there."""
        text = files.png_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"node" * 500_000))
        assert np.array_equal(decode(files.png(SIZE, 8, 2, self.ROWS, text), LIMIT), self.PICTURE)
        behind = files.with_chunk_behind(files.png(SIZE, 8, 2, self.ROWS), text)
        assert np.array_equal(decode(behind, LIMIT), self.PICTURE)

    @pytest.mark.parametrize(("name", "body"), [
        (b"tEXt", b"Software\0scanner"), (b"pHYs", bytes(9)),
        (b"iCCP", b"x\0\0" + zlib.compress(b"profile")),
        (b"eXIf", b"II*\0"), (b"gAMA", bytes(4)), (b"tRNS", bytes(6)),
    ])  # fmt: skip
    def test_a_chunk_that_does_not_matter_may_be_flawed(self, name, body) -> None:
        flawed = files.png_chunk(name, body, crc=1)
        assert np.array_equal(
            decode(files.png(SIZE, 8, 2, self.ROWS, before=flawed), LIMIT), self.PICTURE
        )

    @pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
    def test_the_transparent_grey_is_white_in_every_depth(self, depth) -> None:
        most = 2**depth - 1
        levels = [0, 1] if depth == 1 else [0, 1, most, 1]
        bits = "".join(format(level, f"0{depth}b") for level in levels)
        row = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
        hole = files.png_chunk(b"tRNS", struct.pack(">H", 1))
        decoded = decode(
            files.png((len(levels), 1), depth, 0, files.png_rows([row]), before=hole), LIMIT
        )
        expected = [255 if level == 1 else 255 * level // most for level in levels]
        assert decoded[0, :, 0].tolist() == expected

    def test_imagemagicks_orientation_in_a_text_is_still_heeded(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        raw = b"\nexif\n%8d\n" % len(exif.tobytes()) + exif.tobytes().hex().encode() + b"\n"
        text = files.png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw))
        assert decode(files.png(SIZE, 8, 2, self.ROWS, before=text), LIMIT).shape == (12, 8, 3)

    def test_no_pixels_an_unknown_critical_chunk_and_apples_own_form_are_called_by_name(
        self,
    ) -> None:
        whole = files.png(SIZE, 8, 2, self.ROWS)
        cut = whole[: whole.index(b"IDAT") - 4] + files.png_chunk(b"IEND", b"")
        with pytest.raises(TruncatedImage, match="no pixels"):
            identify(cut, LIMIT)
        with pytest.raises(UnsupportedImage, match="ABCD"):
            identify(files.png(SIZE, 8, 2, self.ROWS, before=files.png_chunk(b"ABCD", b"")), LIMIT)
        with pytest.raises(UnsupportedImage, match="Apple"):
            identify(
                files.png(SIZE, 8, 2, self.ROWS, before=files.png_chunk(b"CgBI", b"1234")), LIMIT
            )

    def test_a_chunk_whose_name_was_damaged_is_damage(self) -> None:
        damaged = files.png(SIZE, 8, 2, self.ROWS).replace(b"IDAT", b"IDAX")
        with pytest.raises(TruncatedImage, match="IDAX: the checksum is wrong"):
            identify(damaged, LIMIT)

    def test_more_chunks_than_any_encoder_writes_are_refused(self) -> None:
        many = files.png_chunk(b"tEXt", b"") * png.MAX_CHUNKS
        with pytest.raises(ImageTooCostly, match="chunks"):
            identify(files.png(SIZE, 8, 2, self.ROWS, before=many), LIMIT)


class TestTiff:
    @pytest.mark.parametrize("order", ["<", ">"])
    def test_16_bits_whose_0_is_white_are_no_negative(self, order) -> None:
        data = GREY.astype(order + "u2").tobytes()
        white_is_0, black_is_0 = (
            decode(
                files.tiff(SIZE, {BITS: (3, [16]), PHOTOMETRIC: (3, [zero])}, data, order), LIMIT
            )
            for zero in (0, 1)
        )
        assert np.array_equal(black_is_0, grey_rgb(GREY >> 8))
        assert np.array_equal(white_is_0, grey_rgb((65535 - GREY) >> 8))

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_12_bits_are_scaled_as_12_bits(self, order) -> None:
        packed = bytes([0x00, 0x0F, 0xFF])  # 0 and 4095
        for zero_is, expected in ((1, [0, 255]), (0, [255, 0])):
            data = files.tiff((2, 1), {BITS: (3, [12]), PHOTOMETRIC: (3, [zero_is])}, packed, order)
            assert decode(data, LIMIT)[0, :, 0].tolist() == expected

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_signed_16_bits_are_stretched_over_their_range(self, order) -> None:
        values = np.array([[-1000, 0, 1000]], order + "i2").tobytes()
        for zero_is, expected in ((1, [0, 127, 255]), (0, [255, 128, 0])):
            tags = {BITS: (3, [16]), PHOTOMETRIC: (3, [zero_is]), FORMAT: (3, [2])}
            assert (
                decode(files.tiff((3, 1), tags, values, order), LIMIT)[0, :, 0].tolist() == expected
            )

    def test_32_bits_unsigned_do_not_wrap_around(self) -> None:
        values = np.array([[0, 2**31, 2**32 - 1]], "<u4")
        data = files.tiff((3, 1), {BITS: (3, [32]), PHOTOMETRIC: (3, [1])}, values.tobytes())
        assert decode(data, LIMIT)[0, :, 0].tolist() == [0, 127, 255]

    @pytest.mark.parametrize("code", ["f4", "f8"])
    @pytest.mark.parametrize("zero_is", [0, 1])
    def test_floats_and_doubles_are_stretched_over_their_range(self, code, zero_is) -> None:
        values = np.array([[-1.0, 0.0, 1.0]], "<" + code)
        tags = {BITS: (3, [values.itemsize * 8]), PHOTOMETRIC: (3, [zero_is]), FORMAT: (3, [3])}
        found = decode(files.tiff((3, 1), tags, values.tobytes()), LIMIT)[0, :, 0].tolist()
        assert found == ([0, 127, 255] if zero_is else [255, 128, 0])

    def test_three_floats_a_pixel_are_stretched_together(self) -> None:
        values = np.array([[[0.0, 0.5, 1.0], [2.0, 0.0, 1.0]]], "<f4")
        tags = {BITS: (3, [32] * 3), PHOTOMETRIC: (3, [2]), SAMPLES: (3, [3]), FORMAT: (3, [3] * 3)}
        assert decode(files.tiff((2, 1), tags, values.tobytes()), LIMIT).tolist() == [
            [[0, 63, 127], [255, 0, 127]]
        ]

    @pytest.mark.parametrize("association", [1, 2])
    @pytest.mark.parametrize("colours", [1, 3])
    def test_alpha_is_flattened_however_it_is_stored(self, association, colours) -> None:
        alpha = np.full(SIZE[::-1], 255, np.uint8)
        alpha[:, :4] = 0
        stored = np.where(alpha > 0, 30, 0).astype(np.uint8)
        samples = np.dstack([stored] * colours + [alpha])
        tags = {
            BITS: (3, [8] * (colours + 1)), PHOTOMETRIC: (3, [1 if colours == 1 else 2]),
            SAMPLES: (3, [colours + 1]), EXTRA: (3, [association]),
        }  # fmt: skip
        decoded = decode(files.tiff(SIZE, tags, samples.tobytes()), LIMIT)
        assert np.array_equal(decoded, grey_rgb(np.where(alpha > 0, 30, 255)))

    def test_a_smaller_version_behind_the_picture_is_no_second_frame(self) -> None:
        assert np.array_equal(decode(paged(1, 0), LIMIT), make_picture())

    def test_pages_that_are_called_pages_are_a_document_of_which_the_first_is_taken_and_noted(
        self,
    ) -> None:
        found = read(paged(2, 2), LIMIT)
        assert np.array_equal(found.pixels, make_picture())
        assert found.notes == ("The TIFF has 2 pages; the first was taken.",)

    def test_two_pictures_that_are_not_called_pages_are_refused(self) -> None:
        with pytest.raises(AnimatedImage, match="more than one frame"):
            identify(paged(0, 0), LIMIT)

    @pytest.mark.parametrize(("tags", "name"), [
        ({254: (4, [1]), 330: (4, [9]), 50706: (1, [1, 4, 0, 0])}, "DNG"),
        ({PHOTOMETRIC: (3, [32803]), BITS: (3, [16])}, "sensor data"),
        ({259: (3, [34713])}, "sensor data"),
    ])  # fmt: skip
    def test_a_cameras_raw_file_is_refused_by_name_and_not_taken_for_its_thumbnail(
        self, tags, name
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
    def test_raw_files_with_signatures_of_their_own_are_refused_by_name(self, data, name) -> None:
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
        self, tags, words
    ) -> None:
        plain = {BITS: (3, [8]), PHOTOMETRIC: (3, [1])}
        with pytest.raises(UnsupportedImage, match=words):
            decode(files.tiff(SIZE, {**plain, **tags}, bytes(12 * 8 * 5)), LIMIT)

    def test_a_tile_much_larger_than_the_picture_is_refused_by_the_header(self) -> None:
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

    def test_directories_that_lead_in_a_circle_end(self) -> None:
        data = bytearray(files.tiff(SIZE, {BITS: (3, [8]), PHOTOMETRIC: (3, [1])}, bytes(96)))
        count = struct.unpack_from("<H", data, 8)[0]
        struct.pack_into("<I", data, 10 + 12 * count, 8)
        assert decode(bytes(data), LIMIT).shape == (8, 12, 3)

    def test_entries_without_end_are_refused(self) -> None:
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


class TestBmp:
    @pytest.mark.parametrize("header_bytes", [108, 124])
    def test_an_alpha_of_nothing_but_0_is_no_alpha(self, header_bytes) -> None:
        """Photoshop and the Windows clipboard write it so, and Windows shows the colours."""
        picture = make_picture(*SIZE)
        bgra = np.dstack([picture[..., ::-1], np.zeros(SIZE[::-1], np.uint8)])[::-1].tobytes()
        assert np.array_equal(
            decode(files.bmp_with_alpha(*SIZE, bgra, header_bytes), LIMIT), picture
        )

    def test_an_alpha_that_says_something_is_heeded(self) -> None:
        picture, alpha = make_picture(*SIZE), np.full(SIZE[::-1], 255, np.uint8)
        alpha[:, :3] = 0
        bgra = np.dstack([picture[..., ::-1], alpha])[::-1].tobytes()
        decoded = decode(files.bmp_with_alpha(*SIZE, bgra), LIMIT)
        assert (decoded[:, :3] == 255).all()
        assert np.array_equal(decoded[:, 3:], picture[:, 3:])


class TestJpeg:
    WHOLE = picture_bytes(blocks(), "JPEG", quality=95)
    NOISE = np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8)

    @pytest.mark.parametrize("tail", [b"", b"\xff", b"\r\n", bytes(64)])
    def test_a_jpeg_without_its_end_marker_is_whole_and_noted(self, tail) -> None:
        found = read(self.WHOLE[:-2] + tail, LIMIT)
        assert np.array_equal(found.pixels, decode(self.WHOLE, LIMIT))
        assert found.notes == ("The JPEG's end is missing; its pixels are there.",)
        assert read(self.WHOLE, LIMIT).notes == ()

    @pytest.mark.parametrize(
        "options", [{}, {"progressive": True}], ids=["baseline", "progressive"]
    )
    @pytest.mark.parametrize("missing", [2_000, 9_000, 20_000])
    def test_a_jpeg_of_which_a_part_is_missing_is_truncated(self, options, missing) -> None:
        data = picture_bytes(self.NOISE, "JPEG", **options)
        with pytest.raises(TruncatedImage, match="truncated or damaged"):
            decode(data[:-missing], LIMIT)

    @pytest.mark.parametrize(
        "options",
        [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 8}],
        ids=str,
    )
    @pytest.mark.parametrize("kept", [0.05, 0.3, 0.6, 0.9])
    def test_a_jpeg_of_a_plain_scene_that_breaks_off_is_truncated(self, options, kept) -> None:
        """Few bytes make many pixels of a drawn shape, so what is missing looks like what is
        there."""
        data = picture_bytes(np.asarray(Image.open(BUNDLED).convert("RGB")), "JPEG", **options)
        with pytest.raises(TruncatedImage, match="truncated or damaged"):
            decode(data[: int(kept * len(data))], 1_000_000)

    def test_scans_without_end_are_refused(self) -> None:
        """A few kilobytes of the same scan again and again took 44 seconds."""
        data = saved(Image.new("L", (64, 64)), "JPEG", progressive=True)
        last = data[data.rindex(b"\xff\xda") : -2]
        assert decode(data[:-2] + last * 5 + data[-2:], LIMIT).shape == (64, 64, 3)
        with pytest.raises(ImageTooCostly, match="scans"):
            decode(data[:-2] + last * jpeg.MAX_SCANS + data[-2:], LIMIT)

    @pytest.mark.parametrize("filling", [b"\xff\xe0\0\2", b"\xff\xfe\0\3x", b"\xff" * 20])
    def test_segments_without_end_are_refused_by_the_header(self, filling) -> None:
        """32 MB of empty segments took 15 seconds and a gigabyte."""
        data = self.WHOLE[:2] + filling * 5_000 + self.WHOLE[2:]
        with pytest.raises(ImageTooCostly, match="segments"):
            identify(data, LIMIT)

    def test_a_kind_of_jpeg_that_is_not_read_is_called_unsupported(self) -> None:
        at = self.WHOLE.index(b"\xff\xc0")
        twelve_bits = self.WHOLE[: at + 4] + b"\x0c" + self.WHOLE[at + 5 :]
        with pytest.raises(UnsupportedImage, match="not read"):
            decode(twelve_bits, LIMIT)


class TestHeif:
    def test_pixels_nearly_those_of_the_picture(self) -> None:
        decoded = decode(files.heic(Image.fromarray(blocks()), quality=95), LIMIT)
        assert np.abs(decoded.astype(int) - blocks()).mean() < 3

    def test_the_header_tells_format_extension_and_size(self) -> None:
        header = identify(files.heic(Image.fromarray(blocks())), LIMIT)
        assert (header.format, header.extension, header.width, header.height) == (
            "HEIF",
            "heic",
            48,
            32,
        )

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_a_phones_orientation_is_heeded_once(self, orientation) -> None:
        """It stands in the file's own properties and in its EXIF, which says the same again."""
        exif = Image.Exif()
        exif[0x0112] = orientation
        upright = decode(picture_bytes(blocks(), "PNG", exif=exif), LIMIT)
        decoded = decode(
            files.heic(Image.fromarray(blocks()), quality=95, exif=exif.tobytes()), LIMIT
        )
        assert decoded.shape == upright.shape
        assert np.abs(decoded.astype(int) - upright).mean() < 4

    def test_alpha_is_flattened_on_white(self) -> None:
        assert (
            decode(files.heic(Image.new("RGBA", (32, 32), (0, 0, 0, 0)), quality=95), LIMIT).min()
            > 250
        )

    def test_of_several_pictures_the_primary_one_is_taken_and_noted(self) -> None:
        first, second = Image.fromarray(blocks()), Image.new("RGB", (48, 32))
        found = read(files.heic(first, append_images=[second], save_all=True), LIMIT)
        assert np.abs(found.pixels.astype(int) - blocks()).mean() < 6
        assert found.notes == ("The file has 2 pictures; its primary one was taken.",)

    def test_too_many_pixels_are_refused_by_the_header(self) -> None:
        with pytest.raises(TooManyPixels):
            identify(files.heic(Image.new("RGB", (64, 64))), 64 * 64 - 1)

    @pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
    def test_a_picture_that_breaks_off_is_truncated(self, kept) -> None:
        data = files.heic(
            Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
        )
        with pytest.raises(TruncatedImage, match="truncated or damaged"):
            decode(data[: int(len(data) * kept)], LIMIT)

    @pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"msf1", b"avif"])
    def test_what_only_calls_itself_so_is_no_picture(self, brand) -> None:
        boxes = struct.pack(">I", 8) + b"mdat" + bytes(300)
        with pytest.raises(NotAnImage, match="no picture in them"):
            identify(files.media_file(brand, b"mif1heic", boxes), LIMIT)

    @pytest.mark.parametrize("brand", [b"isom", b"mp42", b"qt  ", b"M4A "])
    def test_a_video_is_called_a_video(self, brand) -> None:
        with pytest.raises(NotAnImage, match="video"):
            identify(files.media_file(brand), LIMIT)


class TestJpegXl:
    @pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
    def test_the_very_pixels(self, mode) -> None:
        picture = Image.fromarray(make_picture(33, 17)).convert(mode)
        assert np.array_equal(decode(files.jxl(picture), LIMIT), np.asarray(picture.convert("RGB")))

    @pytest.mark.parametrize(
        "size", [(8, 8), (33, 17), (256, 256), (264, 8), (3, 3000), (4000, 2250), (1000, 1250)]
    )
    def test_the_header_is_read_without_the_decoder(self, size) -> None:
        assert jxl.header_of(files.jxl(Image.new("L", size), effort=1)) == (size, False)

    def test_16_bit_grey_is_scaled_by_its_high_byte(self) -> None:
        assert np.array_equal(decode(files.jxl(Image.fromarray(GREY)), LIMIT), grey_rgb(GREY >> 8))

    def test_an_exif_block_does_not_turn_it_again(self) -> None:
        """ISO 18181 has the orientation in the codestream; the decoder has heeded it."""
        exif = Image.Exif()
        exif[0x0112] = 6
        data = files.jxl(Image.fromarray(make_picture(33, 17)), exif=exif.tobytes())
        assert np.array_equal(decode(data, LIMIT), make_picture(33, 17))

    def test_too_many_pixels_are_refused_before_anything_is_decoded(self) -> None:
        bits = (
            0 | 3 << 1 | (2**30 - 1) << 3
        ) | 1 << 33  # not small, 30 bits of height, as wide as high
        with pytest.raises(TooManyPixels):
            identify(jxl.CODESTREAM + bits.to_bytes(20, "little"), 50_000_000)

    @pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
    def test_a_picture_that_breaks_off_is_truncated(self, kept) -> None:
        data = files.jxl(
            Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
        )
        with pytest.raises(TruncatedImage, match="truncated or damaged"):
            decode(data[: int(len(data) * kept)], LIMIT)


def test_every_sides_length_of_jpeg_xl_fits_its_code() -> None:
    """The four lengths that a side may be written in, at their ends."""
    ends = [1, 2**9, 2**9 + 1, 2**13, 2**13 + 1, 2**18, 2**18 + 1, 2**30]
    for (low, high), selector, width in zip(
        list(pairwise(ends))[::2], range(4), (9, 13, 18, 30), strict=True
    ):
        for side in (low, high):
            bits = (
                0 | selector << 1 | (side - 1) << 3 | 1 << (3 + width)
            )  # ratio 1: as wide as high
            assert jxl.header_of(jxl.CODESTREAM + bits.to_bytes(20, "little"))[0] == (side, side)
