"""The overlay is for eyes; what can be measured is its size, its tint and that it repeats."""

from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from seg_pipeline.domain import Segment
from seg_pipeline.imaging.overlays import MAX_SIDE, colour_of, overlay
from seg_pipeline_tests.builders import make_picture, make_segment, mask_of


def opened(webp: bytes) -> np.ndarray:
    picture = Image.open(BytesIO(webp))
    assert (picture.format, picture.mode) == ("WEBP", "RGB")
    return np.array(picture).astype(int)


def square(side: int, start: int, stop: int, label: str | None = None) -> Segment:
    full = np.zeros((side, side), np.bool_)
    full[start:stop, start:stop] = True
    mask = mask_of(full)
    return Segment(mask, label=label)


def test_a_mask_is_tinted_and_the_rest_is_the_picture() -> None:
    grey = np.full((200, 200, 3), 100, np.uint8)
    drawn = opened(overlay(grey, [square(200, 60, 140)]).picture)
    assert drawn.shape == (200, 200, 3)
    assert np.abs(drawn[180, 180] - 100).max() < 12
    assert np.abs(drawn[100, 100] - 100).max() > 40


def test_a_hole_is_not_tinted() -> None:
    full = np.zeros((200, 200), np.bool_)
    full[20:180, 20:180] = True
    full[70:130, 70:130] = False
    drawn = opened(overlay(np.full((200, 200, 3), 100, np.uint8), [Segment(mask_of(full))]).picture)
    assert np.abs(drawn[100, 100] - 100).max() < 12


@pytest.mark.parametrize(
    ("size", "expected"), [((3200, 40), (1600, 20)), ((40, 3200), (20, 1600)), ((90, 60), (90, 60))]
)
def test_it_is_at_most_1600_pixels_long(size: tuple[int, int], expected: tuple[int, int]) -> None:
    mask = mask_of(np.ones(size[::-1], np.bool_))
    drawn = opened(overlay(make_picture(*size), [Segment(mask)]).picture)
    assert drawn.shape[1::-1] == expected
    assert max(expected) <= MAX_SIDE


def test_a_segment_of_one_pixel_survives_scaling_down() -> None:
    full = np.zeros((4000, 4), np.bool_)
    full[3999, 3] = True
    dot = Segment(mask_of(full), label="dot")
    assert opened(overlay(np.zeros((4000, 4, 3), np.uint8), [dot]).picture).any()


def test_the_thumbnail_is_the_same_picture_at_480_pixels() -> None:
    drawn = overlay(make_picture(960, 640), [square(400, 60, 140)])
    small, large = opened(drawn.thumbnail), opened(drawn.picture)
    assert small.shape[1::-1] == (480, 320)
    assert abs(float(small.mean()) - float(large.mean())) < 3


def test_a_picture_below_480_pixels_is_not_enlarged() -> None:
    assert opened(overlay(make_picture(60, 40), []).thumbnail).shape[1::-1] == (60, 40)


def test_labels_of_any_script_and_length_do_not_fail() -> None:
    segments = [square(60, 0, 9, label) for label in ("", "x" * 300, "кошка", "猫", "a\nb", "\x00")]
    assert opened(overlay(make_picture(60, 60), segments).picture).shape == (60, 60, 3)


def test_no_segments_give_the_picture() -> None:
    assert np.abs(opened(overlay(np.full((64, 64, 3), 90, np.uint8), []).picture) - 90).max() < 8


def test_the_picture_itself_is_left_as_it_was() -> None:
    picture = make_picture(4, 4)
    before = picture.copy()
    overlay(picture, [make_segment()])
    assert np.array_equal(picture, before)


def test_the_same_input_gives_the_same_bytes() -> None:
    assert overlay(make_picture(4, 4), [make_segment()]) == overlay(
        make_picture(4, 4), [make_segment()]
    )


def test_neighbouring_colours_differ() -> None:
    colours = [np.array(colour_of(index)) for index in range(40)]
    assert len({tuple(colour) for colour in colours}) == 40
    assert min(np.abs(one - other).sum() for one, other in pairwise(colours)) > 200
