"""A mask's PNG, read a few rows at a time."""

import numpy as np
import pytest
from PIL import Image

from seg_pipeline.domain import Mask
from seg_pipeline.errors import ImageError, TruncatedImage
from seg_pipeline.imaging.mask_rows import MaskRows, PackedMask, unpacked
from seg_pipeline.imaging.masks import encode_mask_png
from seg_pipeline_tests.builders import saved

LIMIT = 10_000
FULL = np.random.default_rng(3).random((23, 37)) < 0.2


def png_of(full: np.ndarray) -> bytes:
    mask = Mask.from_full(full)
    assert mask
    return encode_mask_png(mask)


@pytest.mark.parametrize("count", [1, 5, 22, 23])
def test_rows_come_in_order_however_many_are_taken_at_once(count: int) -> None:
    rows = MaskRows(png_of(FULL), LIMIT)
    assert rows.resolution_wh == (37, 23)
    taken = [rows.take(min(count, 23 - first)) for first in range(0, 23, count)]
    assert np.array_equal(unpacked(np.concatenate(taken), 37), FULL)
    with pytest.raises(TruncatedImage):
        rows.take(1)


def test_a_png_of_another_program_is_read_as_well() -> None:
    alpha = Image.fromarray(FULL.astype(np.uint8) * 255)
    rgba = Image.merge("RGBA", [Image.new("L", alpha.size)] * 3 + [alpha])
    assert np.array_equal(unpacked(MaskRows(saved(rgba, "PNG"), LIMIT).take(23), 37), FULL)


@pytest.mark.parametrize("harm", [lambda png: png[:-20], lambda png: b"", lambda png: b"x" + png])
def test_what_is_no_whole_png_is_refused(harm) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ImageError):
        MaskRows(harm(png_of(FULL)), LIMIT)


def test_a_mask_of_too_many_pixels_is_refused_before_it_is_unpacked() -> None:
    with pytest.raises(ImageError):
        MaskRows(png_of(FULL), 37 * 23 - 1)


def test_windows_of_columns_hold_every_pixel_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seg_pipeline.imaging.mask_rows.STRIP_PIXELS", 23 * 8)
    full = FULL.copy()
    full[:, :9] = full[:4] = full[20:] = False
    mask, seen = PackedMask.read(MaskRows(png_of(full), LIMIT)), np.zeros(full.shape, np.int8)
    windows = [*mask.columns()]
    assert len(windows) > 1
    for (x, y), window in windows:
        seen[y : y + window.shape[0], x : x + window.shape[1]] += window
    assert np.array_equal(seen, full)
