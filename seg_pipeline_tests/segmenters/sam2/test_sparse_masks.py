from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from seg_pipeline.demo.scenes import make_scene
from seg_pipeline.imaging.masks import mask_iou
from seg_pipeline.segmenters.sam2 import generator, segmenter
from seg_pipeline.segmenters.sam2.segmenter import Sam2Segmenter
from seg_pipeline.segmenters.sam2.sparse_masks import AROUND_POINT, MaskSampler, Thresholds
from seg_pipeline.segmenters.weights.locate import BUNDLED

pytestmark = pytest.mark.process

WEIGHTS = BUNDLED / "demo-sam2.pt"
SIDE = 32
THRESHOLDS = Thresholds(-1, 1, 0.9)
MIDDLE = torch.tensor([[0.5, 0.5]])


@dataclass
class Painting:
    """The given masks of one point, `(k, n, 16)`."""

    point: int
    logits: torch.Tensor

    def take(self, masks: torch.Tensor) -> "Painting":
        return Painting(self.point, self.logits[masks])


class Painter:
    """Stands for a decoder: its masks are given, `(p, m, n, 16)`, and it counts the positions that
    it is asked for."""

    def __init__(self, logits: torch.Tensor, size: tuple[int, int] = (SIDE, SIDE)) -> None:
        self.size = size
        self.positions = size[0] * size[1]
        self.asked: list[int] = []
        self._logits = logits

    def point_masks(self, _: Any, wanted: torch.Tensor) -> Iterator[Painting]:
        for point in torch.nonzero(wanted.any(1)).flatten().tolist():
            yield Painting(point, self._logits[point, wanted[point]])

    def upscale(self, _: Any, masks: Painting, positions: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(positions))
        return masks.logits.index_select(1, positions)

    def arrange(self, logits: torch.Tensor) -> torch.Tensor:
        return logits


def sample(
    painter: Painter, points: torch.Tensor = MIDDLE, thresholds: Thresholds = THRESHOLDS
) -> Any:
    sampler = MaskSampler(painter, None, thresholds)  # type: ignore[arg-type]
    wanted = torch.ones(painter._logits.shape[:2], dtype=torch.bool)
    return sampler.masks(None, wanted, points)  # type: ignore[arg-type]


def positions_of(picture: torch.Tensor) -> torch.Tensor:
    """A picture `(4 h, 4 w)` as `(1, 1, n, 16)`, position by position."""
    height, width = (side // 4 for side in picture.shape)
    return picture.view(height, 4, width, 4).permute(0, 2, 1, 3).reshape(1, 1, height * width, 16)


def make_disc(
    radius: float, centre_xy: tuple[float, float] = (64, 64), slope: float = 2.0
) -> torch.Tensor:
    """Logits `(4 h, 4 w)` of a disc, which fall by `slope` a pixel from its middle to beyond its
    edge."""
    y, x = torch.meshgrid(torch.arange(4.0 * SIDE), torch.arange(4.0 * SIDE), indexing="ij")
    return (radius - torch.hypot(x - centre_xy[0], y - centre_xy[1])) * slope


def assert_alike(made: torch.Tensor, truth: torch.Tensor) -> None:
    """On the same side of every threshold, pixel by pixel."""
    for threshold in (-1, 0, 1):
        assert torch.equal(made > threshold, truth > threshold)


@pytest.mark.parametrize("radius", [6, 20, 45])
def test_a_smooth_mask_is_complete_though_made_in_part(radius: float) -> None:
    painter = Painter(positions_of(make_disc(radius)))
    (made,), kept = sample(painter, thresholds=Thresholds(-1, 1, 0.5))
    assert kept.all()
    assert_alike(made, positions_of(make_disc(radius))[0])
    assert sum(painter.asked) < 0.75 * painter.positions


@pytest.mark.parametrize("seed", range(8))
def test_masks_of_any_smooth_shape_are_complete(seed: int) -> None:
    noise = torch.randn(1, 3, 7, 7, generator=torch.Generator().manual_seed(seed))
    pictures = 30 * interpolate(noise, (4 * SIDE, 4 * SIDE), mode="bicubic")[0]
    logits = torch.cat([positions_of(picture) for picture in pictures], 1)
    painter = Painter(logits)
    (made,), kept = sample(painter, thresholds=Thresholds(-1, 1, 0))
    assert kept.all()
    assert_alike(made, logits[0])
    assert sum(painter.asked) < painter.positions


@pytest.mark.parametrize("size", [(5, 9), (1, 1), (8, 3)])
def test_networks_of_any_size_are_sampled(size: tuple[int, int]) -> None:
    logits = torch.full((2, 3, size[0] * size[1], 16), 9.0)
    logits[:, :, ::3] = -9
    made, kept = sample(Painter(logits, size), torch.rand(2, 2), Thresholds(-1, 1, 0))
    assert kept.all()
    assert [each.shape for each in made] == [logits.shape[1:]] * 2


def test_an_unstable_mask_is_dropped_after_the_sample_and_another_of_its_point_is_not() -> None:
    faint, clear = make_disc(40, slope=0.05), make_disc(40)
    painter = Painter(torch.cat([positions_of(faint), positions_of(clear)], 1))
    (made,), kept = sample(painter)
    assert kept.tolist() == [[False, True]]
    assert_alike(made, positions_of(clear)[0])
    painter = Painter(positions_of(faint))
    assert sample(painter) == ([], torch.zeros(1, 1, dtype=torch.bool))
    assert painter.asked == [painter.positions // 16]


def test_a_thing_between_the_samples_positions_is_found_at_its_point() -> None:
    """It lies in one position alone, of an odd row and column."""
    picture = torch.full((4 * SIDE, 4 * SIDE), -20.0)
    picture[4 * 17 : 4 * 18, 4 * 21 : 4 * 22] = 20
    here, elsewhere = torch.tensor([[21.5 / SIDE, 17.5 / SIDE]]), torch.tensor([[0.1, 0.1]])
    (made,), _ = sample(Painter(positions_of(picture)), here)
    assert_alike(made, positions_of(picture)[0])
    painter = Painter(positions_of(picture))
    (made,), _ = sample(painter, elsewhere)
    assert not (made > 0).any()
    assert sum(painter.asked) <= painter.positions // 4 + (2 * AROUND_POINT + 1) ** 2


def test_a_mask_that_only_looks_stable_at_first_is_dropped_after_the_whole_sample() -> None:
    """Its pixels in doubt lie at positions that are looked at second: every fourth row, from the
    third on."""
    disc = make_disc(50)
    for row in range(8, 4 * SIDE, 16):
        disc[row : row + 4] = disc[row : row + 4].clamp(max=0)
    painter = Painter(positions_of(disc))
    assert sample(painter, thresholds=Thresholds(-1, 1, 0.95))[0] == []
    assert painter.asked == [painter.positions // 16, 3 * painter.positions // 16]


def test_a_mask_that_is_hardly_stable_enough_is_made_everywhere() -> None:
    """What lies between the sample's positions decides: holes that count among the pixels in
    doubt."""
    disc = make_disc(50)
    for row, column in [(15, 9), (15, 23)]:
        disc[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 0.0
    logits = positions_of(disc)
    stability = float((logits > 1).sum() / (logits > -1).sum())
    (made,), _ = sample(Painter(logits), thresholds=Thresholds(-1, 1, stability + 0.001))
    assert torch.equal(made, logits[0])
    (made,), _ = sample(Painter(logits), thresholds=Thresholds(-1, 1, stability - 0.1))
    assert not torch.equal(made > 1, logits[0] > 1)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_trained_networks_masks_are_those_that_are_made_everywhere(
    monkeypatch: pytest.MonkeyPatch, bf16: bool
) -> None:
    monkeypatch.setattr(generator, "FEWEST_POSITIONS", 1)
    monkeypatch.setattr(segmenter, "has_bf16", lambda _: bf16)
    turbo, exact = (
        Sam2Segmenter("demo-sam2", WEIGHTS, "cpu", mode=mode) for mode in ("turbo", "exact")
    )
    assert turbo.notes["masks_sampled"] is True
    assert turbo.notes["precision"] == ("bf16" if bf16 else "fp32")
    for seed in (3, 5):
        picture = make_scene(seed, width=480, height=360).image
        quick, whole = turbo.segment([picture])[0], exact.segment([picture])[0]
        assert len(quick) == len(whole) > 0
        assert np.mean([mask_iou(a.mask, b.mask) for a, b in zip(quick, whole, strict=True)]) > 0.99


def test_a_network_of_few_positions_is_not_sampled() -> None:
    turbo = Sam2Segmenter("demo-sam2", WEIGHTS, "cpu", mode="turbo")
    assert turbo.notes["masks_sampled"] is False
