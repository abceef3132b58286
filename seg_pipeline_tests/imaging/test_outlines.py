"""Outlines of masks: exact, whole, and of rings that no reader stumbles over."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seg_pipeline.domain import BoolMask
from seg_pipeline.errors import OutputTooLarge
from seg_pipeline.imaging import outlines as tracing
from seg_pipeline.imaging.mask_rows import PackedMask
from seg_pipeline.imaging.outlines import Outline, Ring, outlines
from seg_pipeline_tests.builders import bits

full_frames = arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24)))


def packed(full: BoolMask) -> PackedMask:
    return PackedMask((full.shape[1], full.shape[0]), np.packbits(full, axis=1))


def filled(ring: Ring, shape: tuple[int, int]) -> BoolMask:
    """The pixels inside a ring: an edge turns all to its right."""
    turned = np.zeros((shape[0], shape[1] + 1), dtype=np.int64)
    for (x, y), (_, end) in zip(ring.corners, np.roll(ring.corners, -1, axis=0), strict=True):
        turned[min(y, end) : max(y, end), x] += 1
    return (np.cumsum(turned, axis=1) % 2)[:, :-1].astype(np.bool_)


def drawn_again(parts: list[Outline], shape: tuple[int, int]) -> BoolMask:
    again = np.zeros(shape, dtype=np.bool_)
    for part in parts:
        inside = filled(part.exterior, shape)
        for hole in part.holes:
            pixels = filled(hole, shape)
            assert inside[pixels].all(), "a hole lies in its own exterior, beside other holes"
            inside &= ~pixels
        assert not (again & inside).any(), "parts lie beside each other"
        again |= inside
    return again


@given(full_frames)
def test_the_rings_of_any_mask_give_it_back(full: BoolMask) -> None:
    assert np.array_equal(drawn_again(outlines(packed(full)), full.shape), full)


@given(full_frames)
def test_there_is_a_part_for_each_region_of_pixels_that_share_a_side(full: BoolMask) -> None:
    count, _ = cv2.connectedComponents(full.astype(np.uint8), connectivity=4)
    assert len(outlines(packed(full))) == count - 1


@given(full_frames)
def test_no_ring_meets_itself_and_every_edge_is_straight(full: BoolMask) -> None:
    for part in outlines(packed(full)):
        for ring in (part.exterior, *part.holes):
            corners = [tuple(point) for point in ring.corners]
            assert len(set(corners)) == len(corners) >= 4
            assert ((ring.corners == np.roll(ring.corners, -1, axis=0)).sum(axis=1) == 1).all()
        assert part.exterior.signed_area > 0
        assert all(hole.signed_area < 0 for hole in part.holes)


@given(full_frames)
def test_the_pixels_of_a_ring_are_set(full: BoolMask) -> None:
    for part in outlines(packed(full)):
        for ring in (part.exterior, *part.holes):
            assert full[ring.pixels[:, 1], ring.pixels[:, 0]].all()


def test_strips_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    full = np.random.default_rng(5).random((40, 50)) < 0.6
    whole = outlines(packed(full))
    monkeypatch.setattr(tracing, "_STRIP_PIXELS", 56 * 3)
    parted = outlines(packed(full))
    assert [each.exterior.corners.tolist() for each in parted] == [
        each.exterior.corners.tolist() for each in whole
    ]


def test_an_island_in_a_hole_is_a_part_of_its_own() -> None:
    parts = outlines(packed(bits("#####/#...#/#.#.#/#...#/#####")))
    assert [(part.exterior.signed_area, len(part.holes)) for part in parts] == [(25, 1), (1, 0)]


def test_a_mask_of_noise_is_refused_before_it_takes_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing, "MAX_CORNERS", 100)
    with pytest.raises(OutputTooLarge, match="100 corners"):
        outlines(packed(np.random.default_rng(5).random((40, 50)) < 0.5))


def test_an_empty_mask_has_no_parts() -> None:
    assert outlines(packed(np.zeros((3, 9), dtype=np.bool_))) == []
