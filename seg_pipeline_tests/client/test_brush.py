"""Masks as Label Studio's brush stores them.

They were also read by label-studio-sdk 2.1.2 itself, by hand, since it is not installed here: its
`decode_rle` gave every pixel back, and its `mask2rle` wrote the same bytes.
"""

import numpy as np
import pytest
from numpy.typing import NDArray

from seg_client.brush import brush_run_lengths
from seg_pipeline_tests.builders import bits

Mask = NDArray[np.bool_]


def decoded(run_lengths: list[int], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The values `(H, W, 4)`, by the reader that rle-pack's own source has."""
    text = "".join(format(byte, "08b") for byte in run_lengths)
    place = 0

    def read(size: int) -> int:
        nonlocal place
        place += size
        return int(text[place - size : place], 2)

    count, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < count:
        is_run = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if is_run else [read(word) for _ in range(length)]
    return np.array(values, dtype=np.uint8).reshape(*shape, 4)


def random_mask(height: int, width: int) -> Mask:
    return np.random.default_rng(5).random((height, width)) < 0.5


@pytest.mark.parametrize(
    "mask",
    [
        bits("#"),
        bits("..../.##./.##./...."),
        bits("#####/#...#/#####"),
        random_mask(37, 53),
        np.ones((300, 200), bool),
        np.zeros((128, 128), bool),
    ],
    ids=["a pixel", "a square", "a hole", "noise", "longer than a run", "as long as a run"],
)
def test_every_pixel_comes_back_in_all_four_channels(mask: Mask) -> None:
    values = decoded(brush_run_lengths(mask), mask.shape)
    assert np.array_equal(values, np.repeat(mask[:, :, None], 4, axis=2) * 255)
