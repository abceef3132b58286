"""Run lengths are read as pycocotools reads them."""

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from seg_client.answers import RunLengths
from seg_client.errors import UnexpectedAnswer
from seg_client.masks import mask_of_png, mask_of_run_lengths
from seg_pipeline.imaging.masks import encode_mask_png
from seg_pipeline_tests.builders import bits, make_mask


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_become_the_mask_that_they_were_made_of(seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(1, 200, 2))
    mask = np.repeat(random.random(shape) < random.random(), int(random.integers(1, 40)), axis=0)
    rle = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    read = mask_of_run_lengths(RunLengths(size=rle["size"], counts=rle["counts"].decode()))
    assert read.dtype == np.bool_
    assert np.array_equal(read, mask)


def test_run_lengths_that_do_not_fill_the_picture_are_refused() -> None:
    with pytest.raises(UnexpectedAnswer, match="4 by 3"):
        mask_of_run_lengths(RunLengths(size=(3, 4), counts="52203"))


def test_the_file_of_a_mask_is_the_mask() -> None:
    drawing = "..../.##./..#./...."
    assert np.array_equal(mask_of_png(encode_mask_png(make_mask(drawing))), bits(drawing))
