"""Run lengths that are counted part by part are those of the whole."""

import numpy as np
import pytest
from pycocotools import mask as coco

from seg_pipeline.imaging.run_lengths import windows_to_rle
from seg_pipeline_tests.builders import bits


@pytest.mark.parametrize("step", [1, 2, 3, 7])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_windows_side_by_side_are_one_mask(
    step: int, density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seg_pipeline.imaging.pixels.STRIP_PIXELS", 12)
    full = np.random.default_rng(step).random((5, 13)) < density
    windows = [((x, 0), full[:, x : x + step]) for x in range(0, 13, step)]
    expected = coco.encode(np.asfortranarray(full, dtype=np.uint8))
    assert windows_to_rle((13, 5), windows)["counts"] == expected["counts"].decode()


def test_a_window_may_be_a_part_of_the_picture_and_hold_a_run_to_its_end() -> None:
    full = bits("..../...#/..##")
    expected = coco.encode(np.asfortranarray(full, dtype=np.uint8))
    assert windows_to_rle((4, 3), [((2, 1), full[1:, 2:])])["counts"] == expected["counts"].decode()


def test_no_window_is_an_empty_mask() -> None:
    assert coco.area(windows_to_rle((4, 3), [])) == 0
