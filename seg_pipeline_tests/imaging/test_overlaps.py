import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seg_pipeline.domain import Mask
from seg_pipeline.imaging.masks import mask_iou, shared_area
from seg_pipeline.imaging.overlaps import (
    PackedBits,
    areas_of,
    ious,
    shared_areas,
    shared_areas_within,
)

WIDTH, HEIGHT = 200, 30


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    """A mask anywhere in a picture a few words wide, ragged and with holes."""
    x, y = draw(st.integers(0, WIDTH - 1)), draw(st.integers(0, HEIGHT - 1))
    width, height = draw(st.integers(1, WIDTH - x)), draw(st.integers(1, HEIGHT - y))
    bits = np.random.default_rng(draw(st.integers(0, 99))).random((height, width)) < 0.6
    bits[0, 0] = True
    mask = Mask.from_window(bits, (x, y), (WIDTH, HEIGHT))
    assert mask is not None
    return mask


@given(st.lists(masks(), min_size=1, max_size=5), st.lists(masks(), min_size=1, max_size=5))
def test_packed_masks_share_what_masks_share(ours: list[Mask], theirs: list[Mask]) -> None:
    packed, others = [[PackedBits.of(mask) for mask in each] for each in (ours, theirs)]
    shared = shared_areas(packed, others, np.zeros((len(ours), len(theirs))))
    overlap = ious(shared, areas_of(packed), areas_of(others))
    for row, one in enumerate(ours):
        for column, other in enumerate(theirs):
            assert shared[row, column] == shared_area(one, other)
            assert abs(overlap[row, column] - mask_iou(one, other)) < 1e-9


@given(st.lists(masks(), min_size=1, max_size=6))
def test_among_themselves_each_pair_is_the_same_both_ways(every: list[Mask]) -> None:
    packed = [PackedBits.of(mask) for mask in every]
    none = np.zeros((len(every), len(every)))
    within = shared_areas_within(packed, none)
    assert np.array_equal(within, shared_areas(packed, packed, none))


def test_pairs_whose_boxes_share_too_little_are_left_out() -> None:
    one, other = [
        Mask.from_window(np.ones((10, 10), dtype=np.bool_), (x, 0), (WIDTH, HEIGHT)) for x in (0, 5)
    ]
    assert one is not None
    assert other is not None
    pair = [PackedBits.of(one)], [PackedBits.of(other)]
    assert shared_areas(*pair, np.array([[50.0]])) == 50
    assert shared_areas(*pair, np.array([[51.0]])) == 0
