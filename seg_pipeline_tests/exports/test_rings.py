"""Several rings as one line."""

import numpy as np

from seg_pipeline.exports.rings import (
    at_least_three,
    closed,
    joined,
    mask_line,
    part_line,
    simplified,
)
from seg_pipeline.imaging.mask_rows import PackedMask
from seg_pipeline.imaging.outlines import Outline, outlines
from seg_pipeline_tests.builders import bits

SQUARE = np.array([[0, 0], [4, 0], [4, 4], [0, 4]], dtype=np.int32)


def parts_of(drawing: str) -> list[Outline]:
    full = bits(drawing)
    return outlines(PackedMask((full.shape[1], full.shape[0]), np.packbits(full, axis=1)))


def area(line: np.ndarray) -> float:
    x, y = line.T.astype(float)
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def test_a_detour_goes_and_comes_back_by_the_nearest_points() -> None:
    line = joined(SQUARE, SQUARE + np.array([6, 0], dtype=np.int32))
    assert line.tolist() == [
        *([0, 0], [4, 0]),
        *([6, 0], [10, 0], [10, 4], [6, 4], [6, 0]),
        *([4, 0], [4, 4], [0, 4]),
    ]
    assert area(line) == 2 * area(SQUARE)


def test_holes_take_their_area_from_the_line() -> None:
    (part,) = parts_of("#####/#...#/#...#/#...#/#####")
    assert area(part.exterior.pixels) == 16
    assert area(part_line(part, 0)) == 0  # both run through the same pixels


def test_parts_are_joined_from_left_to_right() -> None:
    line = mask_line(parts_of("##.##.##/##.##.##"), 0)
    assert area(line) == 3
    assert np.abs(np.diff(line, axis=0)).max() == 2


def test_a_ring_that_would_vanish_stays_as_it_is() -> None:
    assert np.array_equal(simplified(SQUARE, 10), SQUARE)
    assert simplified(SQUARE, 0) is SQUARE
    assert len(simplified(np.insert(SQUARE, 1, [2, 0], axis=0), 0.5)) == 4


def test_one_point_becomes_three() -> None:
    assert at_least_three(SQUARE[:1]).tolist() == [[0, 0]] * 3
    assert at_least_three(SQUARE[:2]).tolist() == [[0, 0], [4, 0], [0, 0]]
    assert at_least_three(SQUARE).tolist() == SQUARE.tolist()


def test_a_closed_ring_ends_where_it_begins() -> None:
    (points,) = closed(SQUARE)
    assert points.tolist() == [*SQUARE.tolist(), [0, 0]]
