"""Large pictures go through in tiles; all others do not notice."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg_pipeline.demo.scenes import make_scene
from seg_pipeline.demo.scoring import score_scene
from seg_pipeline.domain import Box, Parameters, RgbImage, Segment
from seg_pipeline.imaging.tile_merging import TileView
from seg_pipeline.segmenters import tiling
from seg_pipeline.segmenters.tiling import TiledSegmenter, load_tiled_segmenter, split, surest
from seg_pipeline.segmenters.weights.locate import BUNDLED
from seg_pipeline.segmenters.yolo.segmenter import YoloSegmenter
from seg_pipeline.settings import Settings
from seg_pipeline_tests.builders import BarSegmenter, make_mask, make_scene_picture

pytestmark = pytest.mark.process

DEMO_YOLO = BUNDLED / "demo-yolo.pt"


class Witness(BarSegmenter):
    """Remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[RgbImage] = []
        self.asked: list[Parameters | None] = []

    def segment(
        self, images: Sequence[RgbImage], parameters: Parameters | None = None
    ) -> list[list[Segment]]:
        self.shown += images
        self.asked.append(parameters)
        return super().segment(images, parameters)


def masks(segments: Sequence[Segment]) -> list[bytes]:
    return sorted(segment.mask.full().tobytes() for segment in segments)


class TestSplit:
    @given(st.integers(1, 300), st.integers(1, 300), st.integers(12, 90), st.floats(0, 0.7))
    def test_every_pixel_is_in_a_tile_and_neighbours_overlap(
        self, width: int, height: int, side: int, overlap: float
    ) -> None:
        boxes = split((width, height), side, overlap)
        seen = np.zeros((height, width), np.uint16)
        for box in boxes:
            seen[box.slices] += 1
        assert seen.min() >= 1
        assert {(box.width, box.height) for box in boxes} == {(min(side, width), min(side, height))}
        columns = sorted({box.x for box in boxes})
        assert all(left + side - right >= int(side * overlap) for left, right in pairwise(columns))

    def test_tiles_are_spread_evenly_in_reading_order(self) -> None:
        assert split((10, 4), 4, 0.25) == [Box(0, 0, 4, 4), Box(3, 0, 4, 4), Box(6, 0, 4, 4)]

    def test_a_hundred_megapixels_are_forty_tiles(self) -> None:
        assert len(split((12_000, 8_400), 2048)) == 40


class TestSurest:
    @given(
        st.lists(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5)), max_size=4), max_size=4),
        st.integers(0, 60),
    )
    def test_the_best_scores_stay_as_far_as_there_is_room(
        self, tiles: list[list[tuple[int, int]]], room: int
    ) -> None:
        """Against the plain way: one segment less, the worst of the last, until all fit."""
        views = [
            TileView(Box(0, 0, 9, 1), [_line(length, score) for length, score in tile])
            for tile in tiles
        ]
        left = sorted(
            (segment for view in views for segment in view.segments),
            key=lambda one: -(one.predicted_iou or 0),
        )
        while sum(segment.mask.area for segment in left) > room:
            left.pop()
        kept = surest(views, room)
        assert [view.box for view in kept] == [view.box for view in views]
        assert {id(one) for view in kept for one in view.segments} == {id(one) for one in left}

    def test_a_large_picture_never_holds_more(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(tiling, "MASK_BYTES", 0)
        tiled = TiledSegmenter(Witness(), 1, 64)
        assert tiled.segment([make_scene_picture(boxes=4, width=256, height=96)]) == [[]]
        assert "would not fit" in caplog.text


def _line(length: int, score: int) -> Segment:
    return Segment(make_mask("#" * length + "." * (9 - length)), predicted_iou=score / 5)


class TestSegmenting:
    def test_a_picture_below_the_size_goes_through_as_it_is(self) -> None:
        witness, picture = Witness(), make_scene_picture(width=64, height=48)
        tiled = TiledSegmenter(witness, 64 * 48, 32)
        (found,) = tiled.segment([picture], {"confidence": 0.5})
        assert len(witness.shown) == 1
        assert witness.shown[0] is picture
        assert witness.asked == [{"confidence": 0.5}]
        assert masks(found) == masks(BarSegmenter().segment([picture])[0])
        assert "tiles" not in tiled.notes

    def test_zero_turns_tiles_off(self) -> None:
        witness, picture = Witness(), make_scene_picture(width=64, height=48)
        TiledSegmenter(witness, 0, 32).segment([picture])
        assert witness.shown[0] is picture

    def test_a_large_picture_gives_what_it_gives_whole(self) -> None:
        picture = make_scene_picture(boxes=4, width=256, height=96)
        tiled = TiledSegmenter(Witness(), 1, 64)
        (found,) = tiled.segment([picture])
        assert masks(found) == masks(BarSegmenter().segment([picture])[0])
        assert tiled.notes["tiles"] == 10

    def test_the_model_never_sees_more_than_a_tile(self) -> None:
        witness = Witness()
        TiledSegmenter(witness, 1, 64).segment([make_scene_picture(width=200, height=120)])
        assert max(max(picture.shape) for picture in witness.shown) == 64

    def test_large_and_small_pictures_keep_their_order_and_share_calls(self) -> None:
        witness = Witness()
        small, large = make_scene_picture(1), make_scene_picture(3, width=256, height=96)
        found = TiledSegmenter(witness, 64 * 48, 64).segment([small, large, small])
        assert [len(segments) for segments in found] == [1, 3, 1]
        assert witness.calls[0] == 2

    def test_closing_closes_the_model(self) -> None:
        witness = Witness()
        TiledSegmenter(witness, 1, 64).close()
        assert witness.closed

    def test_it_is_the_model_that_it_wraps(self) -> None:
        tiled = load_tiled_segmenter(
            "demo-yolo", Settings(_env_file=None, device="cpu", tile_above_pixels=5)
        )
        assert (tiled.name, tiled.device, len(tiled.weights_sha256)) == ("demo-yolo", "cpu", 64)
        tiled.close()


@pytest.mark.parametrize(("columns", "rows"), [(6, 4), (3, 2)])
def test_a_network_finds_in_tiles_what_is_too_small_for_it_in_the_whole(
    columns: int, rows: int
) -> None:
    """3000 by 2000 pixels reduced to the network's 320 leave little of small things."""
    picture, truth = mosaic(columns, rows, 3000, 2000)
    model = YoloSegmenter("demo-yolo", DEMO_YOLO, "cpu")
    whole, tiled = (
        score_scene([_small(segment.mask.full()) for segment in found], truth)
        for found in (
            model.segment([picture])[0],
            TiledSegmenter(model, 1_000_000, 768).segment([picture])[0],
        )
    )
    assert tiled.found >= whole.found
    assert tiled.found_share >= 0.8


def mosaic(columns: int, rows: int, width: int, height: int) -> tuple[RgbImage, list[np.ndarray]]:
    """Scenes side by side, and their true masks at a quarter of the size."""
    picture, truth = np.zeros((height, width, 3), np.uint8), []
    for index in range(columns * rows):
        row, column = divmod(index, columns)
        scene = make_scene(77 + index, width=width // columns, height=height // rows)
        box = Box(column * width // columns, row * height // rows, width // columns, height // rows)
        picture[box.slices] = scene.image
        for thing in scene.objects:
            full = np.zeros((height, width), np.bool_)
            full[box.slices] = thing.mask
            truth.append(_small(full))
    return picture, truth


def _small(full: np.ndarray) -> np.ndarray:
    return full[2::4, 2::4].copy()
