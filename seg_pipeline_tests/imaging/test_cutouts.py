"""Cut-outs are what the user sees first: tight, transparent outside, as large as asked."""

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from seg_pipeline.domain import Mask
from seg_pipeline.errors import InvalidResize
from seg_pipeline.imaging import pixels
from seg_pipeline.imaging.cutouts import cut_out
from seg_pipeline.imaging.images import WEBP_MAX_SIDE
from seg_pipeline_tests.builders import bits, make_mask, make_picture, mask_of

RING = "......./.#####./.#...#./.#...#./.#...#./.#####./......."


def opened(webp: bytes) -> Image.Image:
    picture = Image.open(BytesIO(webp))
    assert picture.format == "WEBP"
    return picture.convert("RGBA") if picture.mode == "RGB" else picture


def alpha(webp: bytes) -> np.ndarray:
    return np.array(opened(webp).getchannel("A"))


def disc(side: int, radius: float) -> Mask:
    y, x = np.mgrid[:side, :side]
    return mask_of((x - side / 2) ** 2 + (y - side / 2) ** 2 < radius**2)


class TestShape:
    def test_it_is_as_large_as_the_masks_box(self) -> None:
        assert opened(cut_out(make_picture(7, 7), make_mask(RING))).size == (5, 5)

    def test_alpha_is_the_mask_exactly_and_a_hole_stays_a_hole(self) -> None:
        assert np.array_equal(
            alpha(cut_out(make_picture(7, 7), make_mask(RING))), bits(RING)[1:6, 1:6] * 255
        )

    def test_a_hole_stays_a_hole_when_resized(self) -> None:
        resized = alpha(cut_out(make_picture(7, 7), make_mask(RING), resize=100))
        assert resized.shape == (100, 100)
        assert resized[50, 50] == 0
        assert resized[10, 10] > 250

    def test_the_colours_are_the_pictures(self) -> None:
        picture = make_picture(128, 128)
        mask = disc(128, 50)
        colours = np.array(opened(cut_out(picture, mask)))[..., :3].astype(int)
        assert np.abs(colours - picture[mask.box.slices])[mask.bits].mean() < 6

    def test_one_pixel(self) -> None:
        assert opened(cut_out(make_picture(3, 3), make_mask(".../.#./..."))).size == (1, 1)

    def test_a_mask_of_another_picture_is_a_mistake(self) -> None:
        with pytest.raises(ValueError, match="not"):
            cut_out(make_picture(8, 7), make_mask(RING))


class TestResize:
    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 300))
    def test_the_longer_side_is_exactly_what_was_asked(
        self, width: int, height: int, resize: int
    ) -> None:
        mask = mask_of(np.ones((height, width), np.bool_))
        size = opened(cut_out(make_picture(width, height), mask, resize)).size
        assert max(size) == resize
        shorter = max(1, min(width, height) * resize / max(width, height))
        assert abs(min(size) - shorter) <= 0.5  # a half may go either way

    def test_a_thread_keeps_one_pixel(self) -> None:
        mask = mask_of(np.ones((2, 500), np.bool_))
        assert opened(cut_out(make_picture(500, 2), mask, 50)).size == (50, 1)

    @pytest.mark.parametrize("resize", [0, -1, 10**9])
    def test_impossible_sizes_are_refused(self, resize: int) -> None:
        with pytest.raises(InvalidResize):
            cut_out(make_picture(7, 7), make_mask(RING), resize)

    def test_what_is_over_webps_limit_is_scaled_down_to_it(self) -> None:
        mask = mask_of(np.ones((1, 20_000), np.bool_))
        assert opened(cut_out(np.zeros((1, 20_000, 3), np.uint8), mask)).size == (WEBP_MAX_SIDE, 1)

    def test_the_same_input_gives_the_same_bytes(self) -> None:
        """A rerun of the stage writes the same files."""
        assert cut_out(make_picture(7, 7), make_mask(RING), 64) == cut_out(
            make_picture(7, 7), make_mask(RING), 64
        )


class TestHalo:
    @pytest.mark.parametrize("resize", [None, 40, 100, 256])
    @pytest.mark.parametrize("background", [(0, 0, 0), (255, 255, 255), (0, 255, 0)], ids=str)
    def test_the_background_does_not_bleed_into_the_edge(
        self, resize: int | None, background: tuple[int, int, int]
    ) -> None:
        """Every pixel that shows at all has the object's colour: no rim, dark or bright, on any
        backdrop."""
        mask = disc(200, 80)
        picture = np.empty((200, 200, 3), np.uint8)
        picture[:] = background
        picture[mask.full()] = (230, 60, 40)
        cut = np.array(opened(cut_out(picture, mask, resize))).astype(float)
        visible = cut[..., 3] > 0
        assert np.abs(cut[visible][:, :3] - (230, 60, 40)).max() <= 3

    @pytest.mark.parametrize("resize", [None, 100, 256])
    def test_the_cut_out_does_not_depend_on_what_is_outside_the_mask(
        self, resize: int | None
    ) -> None:
        mask = disc(120, 45)
        one, other = make_picture(120, 120), make_picture(120, 120)
        other[~mask.full()] = 255
        assert cut_out(one, mask, resize) == cut_out(other, mask, resize)


@pytest.mark.parametrize("resize", [None, 90])
def test_a_large_cut_out_is_made_in_strips_and_is_the_same_to_the_byte(
    monkeypatch: pytest.MonkeyPatch, resize: int | None
) -> None:
    """What bleeding needs at once takes a gigabyte for forty megapixels."""
    picture, mask = make_picture(150, 120), disc(120, 40)
    wide = Mask((150, 120), mask.box, mask.bits)
    whole = cut_out(picture, wide, resize)
    monkeypatch.setattr(pixels, "STRIP_PIXELS", 700)
    assert cut_out(picture, wide, resize) == whole
