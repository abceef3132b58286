"""The weights of the demo models are public, so they tell nothing of where they were made."""

import re
import zipfile
from pathlib import Path

import pytest

from seg_pipeline.segmenters.weights.digest import weights_sha256
from seg_pipeline.segmenters.weights.locate import BUNDLED

WEIGHTS = sorted(BUNDLED.glob("*.pt"))


def test_both_demo_models_have_weights() -> None:
    assert [path.name for path in WEIGHTS] == ["demo-sam2.pt", "demo-yolo.pt"]


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda path: path.stem)
def test_the_readme_beside_the_weights_names_their_sha256(weights: Path) -> None:
    readme = (BUNDLED / "README.md").read_text(encoding="utf-8")
    assert f"`{weights_sha256(weights)}`" in readme


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda path: path.stem)
def test_the_weights_are_small_and_tell_no_paths(weights: Path) -> None:
    assert weights.stat().st_size < 8_000_000
    with zipfile.ZipFile(weights) as archive:
        (pickle,) = [name for name in archive.namelist() if name.endswith(".pkl")]
        assert not re.search(rb"/[a-z]+/[\w.-]+", archive.read(pickle))
