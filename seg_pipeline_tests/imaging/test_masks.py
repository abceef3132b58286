"""Masks survive every way in which they are written, and their numbers can be counted by hand."""

from contextlib import suppress
from io import BytesIO
from itertools import pairwise
from unittest.mock import patch

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco

from seg_pipeline.domain import BoolMask, Box, Mask, Segment
from seg_pipeline.errors import ImageError, NotAnImage, TooManyPixels
from seg_pipeline.imaging import pixels
from seg_pipeline.imaging.masks import (
    boxes_meet,
    center_point,
    common_box,
    contains,
    decode_mask_png,
    encode_mask_png,
    interior_point,
    mask_iou,
    mask_to_rle,
    order_by_area,
)
from seg_pipeline_tests.builders import bits, drawn, make_mask, make_segment, mask_of, saved

LIMIT = 10_000

RING = """
    .......
    .#####.
    .#...#.
    .#...#.
    .#...#.
    .#####.
    .......
"""

full_frames = arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40))).filter(np.any)


def rgba(png: bytes) -> np.ndarray:
    return np.array(Image.open(BytesIO(png)).convert("RGBA"))


def replaced_png(mask: Mask) -> bytes:
    """As the service that this one replaces wrote it: RGBA, optimised."""
    pixels = np.zeros((*mask.full().shape, 4), np.uint8)
    pixels[..., 3] = mask.full() * 255
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def blob(width: int, height: int, seed: int) -> Mask:
    """A wavy disc with a hole, as models draw them."""
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(seed)
    angle, radius = (
        np.arctan2(y - height / 2, x - width / 2),
        np.hypot(x - width / 2, y - height / 2),
    )
    edge = min(width, height) * (
        0.3 + 0.05 * sum(np.sin(angle * n + rng.uniform(0, 6)) / n for n in range(2, 9))
    )
    return mask_of((radius < edge) & (radius > edge / 4))


class TestPng:
    def test_it_is_opaque_black_inside_and_transparent_black_outside(self) -> None:
        """The consumers of the service that this one replaces read RGBA."""
        pixels = rgba(encode_mask_png(make_mask("..#/##.")))
        assert pixels.tolist() == [
            [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 255]],
            [[0, 0, 0, 255], [0, 0, 0, 255], [0, 0, 0, 0]],
        ]

    @given(full_frames)
    def test_every_mask_decodes_to_the_very_rgba(self, full: BoolMask) -> None:
        pixels = rgba(encode_mask_png(mask_of(full)))
        assert np.array_equal(pixels[..., 3], full * np.uint8(255))
        assert not pixels[..., :3].any()

    @given(full_frames)
    def test_every_mask_comes_back_as_it_was(self, full: BoolMask) -> None:
        mask = mask_of(full)
        back = decode_mask_png(encode_mask_png(mask), LIMIT)
        assert (back.resolution_wh, back.box) == (mask.resolution_wh, mask.box)
        assert np.array_equal(back.bits, mask.bits)

    def test_a_hole_stays_a_hole(self) -> None:
        mask = make_mask(RING)
        assert drawn(decode_mask_png(encode_mask_png(mask), LIMIT)) == drawn(mask)

    def test_it_is_a_picture_of_one_bit_a_pixel_whose_checksums_hold(self) -> None:
        picture = Image.open(BytesIO(encode_mask_png(make_mask(RING))))
        picture.verify()
        assert (picture.format, picture.mode, picture.size) == ("PNG", "P", (7, 7))

    @pytest.mark.parametrize("size", [(64, 64), (640, 480), (1919, 1081)])
    @pytest.mark.process
    def test_it_is_no_larger_than_the_seeds(self, size: tuple[int, int]) -> None:
        mask = blob(size[0], size[1], seed=1)
        assert np.array_equal(rgba(encode_mask_png(mask)), rgba(replaced_png(mask)))
        assert len(encode_mask_png(mask)) <= len(replaced_png(mask))

    def test_a_mask_of_the_seed_is_read_too(self) -> None:
        mask = blob(50, 40, seed=2)
        assert drawn(decode_mask_png(replaced_png(mask), LIMIT)) == drawn(mask)

    @given(full_frames)
    def test_it_is_read_as_pillow_reads_it(self, full: BoolMask) -> None:
        """Our own files are unpacked by hand, which is to be seen by nothing but the clock."""
        png = encode_mask_png(mask_of(full))
        in_pillows_words = saved(Image.open(BytesIO(png)).convert("RGBA"), "PNG")
        assert drawn(decode_mask_png(png, LIMIT)) == drawn(decode_mask_png(in_pillows_words, LIMIT))

    @given(full_frames, st.integers(0, 400), st.integers(1, 255))
    def test_a_changed_byte_is_noticed_or_changes_nothing(
        self, full: BoolMask, place: int, change: int
    ) -> None:
        png = bytearray(encode_mask_png(mask_of(full)))
        png[place % len(png)] ^= change
        with suppress(ImageError):
            assert drawn(decode_mask_png(bytes(png), LIMIT)) == drawn(mask_of(full))

    def test_no_bit_of_a_mask_changes_unnoticed(self) -> None:
        """Decoders stop before the checksums once they have all rows."""
        png = encode_mask_png(make_mask(RING))
        for place in range(8 * len(png)):
            changed = bytearray(png)
            changed[place // 8] ^= 1 << place % 8
            with suppress(ImageError):
                assert drawn(decode_mask_png(bytes(changed), LIMIT)) == drawn(make_mask(RING))

    def test_more_rows_than_the_header_says_are_not_unpacked(self) -> None:
        own = encode_mask_png(make_mask(RING))
        with pytest.raises(ImageError):
            decode_mask_png(own[:19] + bytes([255]) + own[20:], LIMIT)

    def test_a_mask_that_fills_a_picture_larger_than_a_strip_is_the_same(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pixels, "STRIP_PIXELS", 100)
        mask = blob(61, 47, seed=1)
        assert np.array_equal(rgba(encode_mask_png(mask))[..., 3] > 0, mask.full())

    def test_a_picture_without_an_opaque_pixel_is_refused(self) -> None:
        buffer = BytesIO()
        Image.new("RGBA", (4, 4)).save(buffer, "PNG")
        with pytest.raises(NotAnImage, match="transparent everywhere"):
            decode_mask_png(buffer.getvalue(), LIMIT)

    def test_a_damaged_mask_is_an_image_error(self) -> None:
        with pytest.raises(ImageError):
            decode_mask_png(encode_mask_png(make_mask(RING))[:60], LIMIT)

    def test_a_mask_of_too_many_pixels_is_refused(self) -> None:
        with pytest.raises(TooManyPixels):
            decode_mask_png(encode_mask_png(make_mask(RING)), 48)


class TestPoints:
    def test_the_centre_is_the_boxs_as_in_the_seeds_example(self) -> None:
        """A box of 80x60 at (120, 150) has its centre at (160, 180)."""
        full = np.zeros((300, 300), np.bool_)
        full[150:210, 120:200] = True
        assert center_point(mask_of(full)) == (160, 180)

    def test_the_centre_of_a_ring_lies_in_its_hole(self) -> None:
        ring = make_mask(RING)
        assert not contains(ring, center_point(ring))
        assert contains(ring, interior_point(ring))

    def test_the_interior_point_is_the_farthest_from_the_edge(self) -> None:
        assert interior_point(
            make_mask("......../#####.../#####.##/#####.##/#####.../#####...")
        ) == (2, 3)

    def test_the_pictures_border_is_an_edge_too(self) -> None:
        """A mask that fills the picture is pointed at in its middle, not in its corner."""
        assert interior_point(make_mask("#####/#####/#####/#####/#####")) == (2, 2)

    @given(full_frames, st.integers(1, 2000))
    def test_the_interior_point_is_always_in_the_mask(
        self, full: BoolMask, exact_pixels: int
    ) -> None:
        """Also where the box is so large that distances are counted in blocks."""
        mask = mask_of(full)
        with patch("seg_pipeline.imaging.masks.EXACT_PIXELS", exact_pixels):
            x, y = interior_point(mask)
        assert full[y, x]
        assert contains(mask, (x, y))

    def test_the_interior_point_of_a_large_mask_is_about_as_far_from_the_edge(self) -> None:
        mask = blob(400, 300, seed=3)
        with patch("seg_pipeline.imaging.masks.EXACT_PIXELS", 4_000):
            x, y = interior_point(mask)
        depth = cv2.distanceTransform(
            mask.full().astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
        )
        assert depth[y, x] >= depth.max() - 2 * 6

    @given(full_frames, st.integers(-3, 45), st.integers(-3, 45))
    def test_contains_agrees_with_the_full_frame(self, full: BoolMask, x: int, y: int) -> None:
        height, width = full.shape
        inside = 0 <= x < width and 0 <= y < height and bool(full[y, x])
        assert contains(mask_of(full), (x, y)) is inside


class TestIou:
    def test_half_of_three_quarters(self) -> None:
        assert mask_iou(make_mask("##../...."), make_mask(".##./....")) == pytest.approx(1 / 3)

    def test_masks_apart_have_none(self) -> None:
        assert mask_iou(make_mask("#..."), make_mask("...#")) == 0

    def test_masks_of_different_pictures_are_a_mistake(self) -> None:
        with pytest.raises(ValueError, match="same picture"):
            mask_iou(make_mask("#.."), make_mask("#."))

    @given(st.data(), st.tuples(st.integers(1, 12), st.integers(1, 12)))
    def test_it_agrees_with_the_full_frames(
        self, data: st.DataObject, shape: tuple[int, int]
    ) -> None:
        one, other = (data.draw(arrays(np.bool_, shape).filter(np.any)) for _ in range(2))
        expected = np.count_nonzero(one & other) / np.count_nonzero(one | other)
        assert mask_iou(mask_of(one), mask_of(other)) == pytest.approx(expected)


boxes = st.builds(Box, *[st.integers(0, 9)] * 2, *[st.integers(1, 9)] * 2)


class TestBoxes:
    @given(st.lists(boxes, max_size=5), st.lists(boxes, max_size=5))
    def test_those_meet_that_have_a_box_in_common(self, ours: list[Box], theirs: list[Box]) -> None:
        expected = [[common_box(one, other) is not None for other in theirs] for one in ours]
        assert boxes_meet(ours, theirs).tolist() == expected


class TestOrder:
    def test_largest_first_and_equals_as_they_came(self) -> None:
        segments = [make_segment(drawing, label=label)
                    for drawing, label in [("#...", "a"), ("##..", "b"), ("..##", "c"),
                                           ("####", "d")]]  # fmt: skip
        assert [segment.label for segment in order_by_area(segments)] == ["d", "b", "c", "a"]

    @given(st.lists(full_frames, max_size=6))
    @pytest.mark.process
    def test_areas_never_grow(self, frames: list[BoolMask]) -> None:
        ordered = order_by_area(Segment(mask_of(full)) for full in frames)
        assert len(ordered) == len(frames)
        assert all(one.mask.area >= other.mask.area for one, other in pairwise(ordered))


# pycocotools' decoder, which only the test uses, is not written for numpy 2's copy keyword.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
class TestRle:
    def test_it_is_cocos(self) -> None:
        rle = mask_to_rle(make_mask(RING))
        assert rle["size"] == [7, 7]
        assert isinstance(rle["counts"], str)
        assert np.array_equal(coco.decode(rle).astype(np.bool_), bits(RING))

    @given(full_frames)
    def test_it_is_what_coco_makes_of_the_whole_frame(self, full: BoolMask) -> None:
        """Run lengths of the box alone would be quicker still, and wrong."""
        expected = coco.encode(np.asfortranarray(full, dtype=np.uint8))
        assert mask_to_rle(mask_of(full))["counts"] == expected["counts"].decode()

    @pytest.mark.parametrize(
        "drawing", ["##/##", "#./#.", ".#/.#", "##/#.", ".#/##", "#", "##./###/###"]
    )
    def test_runs_that_go_on_in_the_next_column_are_one(self, drawing: str) -> None:
        expected = coco.encode(np.asfortranarray(bits(drawing), dtype=np.uint8))
        assert mask_to_rle(make_mask(drawing))["counts"] == expected["counts"].decode()

    @given(full_frames)
    def test_every_mask_comes_back(self, full: BoolMask) -> None:
        assert np.array_equal(coco.decode(mask_to_rle(mask_of(full))).astype(np.bool_), full)
