from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from numpy.random import default_rng

from seg_pipeline.domain import RgbImage
from seg_pipeline_tests.segmenters.models import save_untrained_yolo


@pytest.fixture(scope="session")
def untrained_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small YOLO-seg that was never trained; it finds things everywhere, always the same ones."""
    return save_untrained_yolo(tmp_path_factory.mktemp("weights") / "untrained-seg.pt")


@pytest.fixture(scope="session")
def noise() -> RgbImage:
    """A picture of soft coloured noise, 200 wide and 150 high."""
    small = default_rng(0).integers(0, 255, (15, 20, 3)).astype("uint8")
    return small.repeat(10, axis=0).repeat(10, axis=1)


@pytest.fixture
def torch_threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """As many threads as the indirect parameter says; without one, two."""
    before = torch.get_num_threads()
    torch.set_num_threads(getattr(request, "param", 2))
    yield
    torch.set_num_threads(before)
