import numpy as np
import pytest

from seg_pipeline.demo.scoring import Score, hole_of, mask_iou_matrix, match_masks, score_scene
from seg_pipeline.domain import BoolMask


def mask(text: str) -> BoolMask:
    return np.array([[pixel == "#" for pixel in row] for row in text.split()])


LEFT = mask("##.. ##..")
RIGHT = mask("..## ..##")
MOST_OF_LEFT = mask("##.. #...")
EMPTY = mask(".... ....")


def test_iou_is_the_shared_part_of_the_union() -> None:
    assert mask_iou_matrix([MOST_OF_LEFT], [LEFT, RIGHT]).tolist() == [[0.75, 0.0]]


def test_iou_of_two_empty_masks_is_zero() -> None:
    assert mask_iou_matrix([EMPTY], [EMPTY]).tolist() == [[0.0]]


def test_masks_are_matched_whatever_their_order() -> None:
    assert match_masks([RIGHT, LEFT], [LEFT, RIGHT]) == [(0, 1, 1.0), (1, 0, 1.0)]


def test_the_best_match_is_taken_and_the_second_is_false() -> None:
    """Two masks on one object are one hit and one false alarm, not two hits."""
    assert match_masks([MOST_OF_LEFT, LEFT], [LEFT]) == [(1, 0, 1.0)]
    assert score_scene([MOST_OF_LEFT, LEFT], [LEFT]) == Score(found=1, missed=0, false=1)


def test_a_match_at_the_threshold_counts() -> None:
    assert score_scene([MOST_OF_LEFT], [LEFT], iou_threshold=0.75) == Score(
        found=1, missed=0, false=0
    )
    assert score_scene([MOST_OF_LEFT], [LEFT], iou_threshold=0.76) == Score(
        found=0, missed=1, false=1
    )


def test_nothing_predicted_misses_everything() -> None:
    assert score_scene([], [LEFT, RIGHT]) == Score(found=0, missed=2, false=0)


def test_anything_predicted_where_there_is_nothing_is_false() -> None:
    assert score_scene([LEFT], []) == Score(found=0, missed=0, false=1)


def test_scores_add_up() -> None:
    total = Score(3, 1, 0).plus(Score(3, 1, 2))
    assert total == Score(6, 2, 2)
    assert total.found_share == pytest.approx(0.75)
    assert total.false_share == pytest.approx(0.25)


def test_a_hole_is_what_the_border_cannot_reach() -> None:
    """A bay is not a hole; a hole that only corners close is one, as four neighbours count."""
    assert np.array_equal(hole_of(mask(".#.. #.#. .#..")), mask(".... .#.. ...."))
    assert not hole_of(mask(".##. .#.. .##.")).any()
