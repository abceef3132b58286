"""Things cut by the borders of tiles come out whole, once, and what is two things stays two."""

from random import Random
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seg_pipeline.domain import BoolMask, Box, Mask, Segment
from seg_pipeline.imaging.masks import common_box, mask_iou
from seg_pipeline.imaging.tile_merging import (
    TileFragment,
    TileView,
    agreement,
    merge,
    sampled,
    upscaled,
)
from seg_pipeline.segmenters.tiling import split
from seg_pipeline_tests.builders import bits, drawn, make_mask, mask_of

full_frames = arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40)))


def parts(full: BoolMask) -> list[BoolMask]:
    """The connected parts, each as a full frame."""
    count, labels = cv2.connectedComponents(full.astype(np.uint8), connectivity=8)
    return [labels == part for part in range(1, count)]


def view(box: Box, *fulls: BoolMask, **fields: Any) -> TileView:
    """What a tile sees of masks of the whole picture."""
    segments = []
    for full in fulls:
        wh = (full.shape[1], full.shape[0])
        mask = Mask.from_window(full[box.slices], (box.x, box.y), wh)
        segments += [Segment(mask, **{"label": "x", **fields})] if mask else []
    return TileView(box, segments)


def drawings(segments: list[Segment]) -> list[str]:
    return sorted(drawn(segment.mask) for segment in segments)


LEFT, RIGHT = Box(0, 0, 6, 3), Box(4, 0, 6, 3)
BAR = bits("........../.########./..........")


class TestPieces:
    @given(full_frames, st.integers(8, 20), st.floats(0.01, 0.5))
    @settings(max_examples=60, deadline=None)
    def test_a_segmenter_that_errs_nowhere_gives_in_tiles_what_it_gives_without(
        self, full: BoolMask, side: int, overlap: float
    ) -> None:
        """Here the connected parts of a mask are its things: whatever the tiles cut must grow
        together again."""
        height, width = full.shape
        tiles = [view(box, *_parts_in(full, box)) for box in split((width, height), side, overlap)]
        assert drawings(merge(tiles)) == sorted(drawn(mask_of(part)) for part in parts(full))

    def test_a_thing_longer_than_three_tiles_is_one(self) -> None:
        full = bits("." * 20 + "/." + "#" * 18 + "./" + "." * 20)
        tiles = [view(box, full) for box in split((20, 3), 6, 0.3)]
        assert len(tiles) > 3
        assert drawings(merge(tiles)) == [drawn(mask_of(full))]

    def test_a_thing_that_two_tiles_saw_whole_comes_once(self) -> None:
        dot = bits("........../....##..../..........")
        assert len(merge([view(LEFT, dot), view(RIGHT, dot)])) == 1

    def test_labels_stay_apart(self) -> None:
        merged = merge([view(LEFT, BAR, label="bus"), view(RIGHT, BAR, label="car")])
        assert [segment.label for segment in merged] == ["bus", "car"]

    def test_a_thing_on_another_stays_a_thing(self) -> None:
        """SAM-2 finds a wheel and the car that it is on, neither with a label."""
        car, wheel = (
            bits("########../########../########.."),
            bits("........../....#...../.........."),
        )
        merged = merge([view(LEFT, car, wheel, label=None), view(RIGHT, car, wheel, label=None)])
        assert drawings(merged) == sorted([drawn(mask_of(car)), drawn(mask_of(wheel))])

    def test_two_things_of_one_tile_that_lie_on_each_other_are_not_joined_by_a_third(self) -> None:
        """A second thought about a thing would otherwise vanish in the first."""
        narrow, wide = (
            bits("........../########../########.."),
            bits("########../########../########.."),
        )
        merged = merge([view(LEFT, narrow, wide), view(RIGHT, wide)])
        assert len(merged) == 2

    def test_a_thing_that_a_tile_saw_whole_is_not_lost_in_a_cut_piece_that_holds_more(self) -> None:
        """SAM-2 takes the cut end of one thing and all of another, elsewhere, for one."""
        left, right = Box(0, 0, 16, 8), Box(10, 0, 16, 8)
        whole, elsewhere = np.zeros((8, 26), np.bool_), np.zeros((8, 26), np.bool_)
        whole[2:5, 12:20] = True
        elsewhere[0:7, 1:9] = True
        merged = merge([view(left, whole | elsewhere), view(right, whole)])
        assert drawn(mask_of(whole)) in drawings(merged)
        assert len(merged) == 2

    @given(arrays(np.bool_, st.tuples(st.integers(3, 12), st.just(26))))
    @settings(deadline=None)
    def test_no_thing_that_a_tile_saw_whole_is_lost_in_one_that_took_all_for_one(
        self, full: BoolMask
    ) -> None:
        """Against the plain way: shares of whole frames."""
        left, right = Box(0, 0, 16, len(full)), Box(10, 0, 16, len(full))
        merged = drawings(merge([view(left, full), view(right, *_parts_in(full, right))]))
        everything = full[:, :16].sum()
        for thing in _parts_in(full, right):
            if (
                full[:, 15].any()
                and not thing[:, 10].any()
                and 2 * thing[:, :16].sum() <= everything
            ):
                assert drawn(mask_of(thing)) in merged

    def test_a_thing_in_two_parts_grows_together_if_no_tile_saw_a_part_of_it_as_all(self) -> None:
        """A bus behind a post."""
        left, right, bus = Box(0, 0, 16, 8), Box(10, 0, 16, 8), np.zeros((8, 26), np.bool_)
        bus[2:5, 1:26] = True
        bus[:, 12] = False
        merged = merge([view(left, bus), view(right, bus)])
        assert drawings(merged) == [drawn(mask_of(bus))]

    def test_scores_are_the_pieces_mean_by_area(self) -> None:
        merged = merge(
            [view(Box(0, 0, 6, 3), BAR, confidence=0.9), view(Box(4, 0, 6, 3), BAR, confidence=0.4)]
        )
        assert merged[0].confidence == pytest.approx((5 * 0.9 + 5 * 0.4) / 10)
        assert merged[0].predicted_iou is None

    def test_a_piece_alone_is_left_as_it_is(self) -> None:
        tiles = [
            view(LEFT, bits("#........./........../.........."), confidence=0.5),
            TileView(RIGHT, []),
        ]
        assert merge(tiles)[0] is tiles[0].segments[0]

    def test_nothing_gives_nothing(self) -> None:
        assert merge([TileView(LEFT, []), TileView(RIGHT, [])]) == []


class TestBetterViews:
    def test_a_cut_piece_is_dropped_if_the_tile_that_sees_beyond_the_cut_found_nothing(
        self,
    ) -> None:
        cut = bits("....##..../....##..../..........")
        assert merge([view(LEFT, cut), TileView(RIGHT, [])]) == []

    def test_a_cut_piece_that_lies_mostly_where_no_other_tile_looks_stays(self) -> None:
        assert len(merge([view(LEFT, BAR), TileView(RIGHT, [])])) == 1

    def test_what_the_overview_alone_saw_counts_if_no_tile_could_see_it_whole(self) -> None:
        long, short = make_mask("...../#####"), make_mask(".#.../.....")
        merged = merge([TileView(LEFT, []), TileView(RIGHT, [])], [Segment(long), Segment(short)])
        assert len(merged) == 1
        assert merged[0].mask.box.width == 10

    def test_where_a_tile_saw_a_piece_of_the_overviews_thing_the_piece_counts(self) -> None:
        """The overview's edge is as coarse as the picture was reduced."""
        left, right, fine = Box(0, 0, 16, 8), Box(8, 0, 16, 8), np.zeros((8, 24), np.bool_)
        fine[1:7, 2:24] = True
        fine[3, 5] = False
        merged = merge([view(left, fine, confidence=0.5), TileView(right, [])], [_reduced(fine, 4)])
        assert np.array_equal(merged[0].mask.full()[:, :16], fine[:, :16])
        assert merged[0].mask.full()[4, 16:].all()

    @given(full_frames.filter(np.any), st.integers(4, 20))
    @settings(deadline=None)
    def test_of_what_the_overview_alone_saw_the_islands_go_that_are_no_larger_than_a_tile(
        self, full: BoolMask, side: int
    ) -> None:
        """Against the plain way, at the overview's own size: part by part on whole frames."""
        tiles, mask, things = split(full.shape[::-1], side), mask_of(full), parts(full)
        areas = [int(part.sum()) for part in things]
        assume(areas.count(max(areas)) == 1)
        stay = [
            part
            for part in things
            if part.sum() == max(areas) or max(np.ptp(np.nonzero(part), axis=1)) >= side
        ]
        expected = (
            []
            if any(common_box(tile, mask.box) == mask.box for tile in tiles)
            else [np.any(stay, axis=0)]
        )
        merged = merge([TileView(tile, []) for tile in tiles], [Segment(mask)])
        assert drawings(merged) == [drawn(mask_of(one)) for one in expected]

    def test_a_cut_piece_inside_what_the_overview_saw_whole_is_dropped(self) -> None:
        """Of a thing much larger than a tile, a tile sees a part and takes it for something
        else."""
        left, right, thing = Box(0, 0, 16, 8), Box(8, 0, 16, 8), np.zeros((8, 24), np.bool_)
        thing[1:7, 1:23] = True
        part = thing.copy()
        part[:, :4] = False
        tiles = [view(left, part, label="rectangle"), TileView(right, [])]
        assert [segment.label for segment in merge(tiles, [_reduced(thing, 4)])] == ["x"]


class TestAgreement:
    @given(full_frames, st.randoms())
    @settings(deadline=None)
    def test_where_both_are_one_it_is_their_iou(self, full: BoolMask, random: Random) -> None:
        """Against the plain way, on masks that are connected and so have nothing left out."""
        one = np.maximum.accumulate(np.maximum.accumulate(full, axis=0), axis=1)
        other = np.maximum.accumulate(one, axis=1) & (
            np.arange(full.shape[1]) >= random.randint(0, 3)
        )
        ours, theirs = Mask.from_full(one), Mask.from_full(other)
        if ours and theirs:
            everything = Box(0, 0, *ours.resolution_wh)
            assert agreement(
                TileFragment(ours, everything), TileFragment(theirs, everything)
            ) == pytest.approx(mask_iou(ours, theirs))

    def test_it_looks_at_the_shared_region_alone(self) -> None:
        assert (
            agreement(
                TileFragment(make_mask("####...."), Box(2, 0, 2, 1)),
                TileFragment(make_mask("..######"), Box(2, 0, 2, 1)),
            )
            == 1.0
        )

    def test_parts_that_do_not_meet_do_not_count(self) -> None:
        assert (
            agreement(
                TileFragment(make_mask("##....##/........"), Box(0, 0, 8, 2)),
                TileFragment(make_mask("##....../........"), Box(0, 0, 8, 2)),
            )
            == 1.0
        )

    def test_masks_apart_do_not_agree(self) -> None:
        assert (
            agreement(
                TileFragment(make_mask("#..."), Box(0, 0, 4, 1)),
                TileFragment(make_mask("...#"), Box(0, 0, 4, 1)),
            )
            == 0.0
        )


class TestSampled:
    @given(full_frames, st.integers(1, 40), st.integers(1, 40))
    @settings(deadline=None)
    def test_it_has_the_pixels_at_the_centres(self, full: BoolMask, across: int, down: int) -> None:
        """Against the plain way: whole frames, one pixel after the other."""
        height, width = full.shape
        expected = np.array([
            [full[int((y + 0.5) * height / down),
                  int((x + 0.5) * width / across)] for x in range(across)]
            for y in range(down)
        ])  # fmt: skip
        mask = Mask.from_full(full)
        small = sampled(mask, (across, down)) if mask else None
        assert np.array_equal(small.full(), expected) if small else not expected.any()


class TestUpscaled:
    def test_a_straight_edge_lies_where_the_reduced_one_lay(self) -> None:
        large = upscaled(make_mask("..../.##./.##./...."), (40, 40))
        assert large.box == Box(10, 10, 20, 20)

    def test_what_touches_the_edge_of_the_picture_still_does(self) -> None:
        assert upscaled(make_mask("##/##"), (7, 5)).full().all()

    @given(full_frames.filter(np.any), st.integers(1, 5), st.integers(1, 5))
    @settings(deadline=None)
    def test_every_reduced_pixel_stays_at_its_centre(
        self, full: BoolMask, across: int, down: int
    ) -> None:
        wh = (full.shape[1] * (2 * across - 1), full.shape[0] * (2 * down - 1))
        large = upscaled(mask_of(full), wh).full()
        assert np.array_equal(large[down - 1 :: 2 * down - 1, across - 1 :: 2 * across - 1], full)


def _parts_in(full: BoolMask, box: Box) -> list[BoolMask]:
    inside = np.zeros_like(full)
    inside[box.slices] = full[box.slices]
    return parts(inside)


def _reduced(full: BoolMask, factor: int) -> Segment:
    mask = mask_of(full[factor // 2 :: factor, factor // 2 :: factor])
    return Segment(mask, label="x", confidence=0.5)
