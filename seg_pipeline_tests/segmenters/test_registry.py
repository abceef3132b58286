import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seg_pipeline.domain import RgbImage
from seg_pipeline.errors import ModelError, WeightsMissing
from seg_pipeline.segmenters.registry import load_segmenter
from seg_pipeline.settings import Settings


def make_settings(folder: Path, model: str = "demo-yolo") -> Settings:
    return Settings(_env_file=None, weights_dir=folder, model=model, device="cpu")


def test_a_published_name_loads_from_the_weights_folder(
    untrained_weights: Path, noise: RgbImage, tmp_path: Path
) -> None:
    shutil.copy(untrained_weights, tmp_path / "yolov8n-seg.pt")
    segmenter = load_segmenter("yolov8n-seg", make_settings(tmp_path))
    assert segmenter.name == "yolov8n-seg"
    assert segmenter.segment([noise])[0]


def test_a_path_that_the_operator_named_loads(untrained_weights: Path, tmp_path: Path) -> None:
    name = str(untrained_weights)
    assert load_segmenter(name, make_settings(tmp_path, model=name)).name == name


def test_a_path_that_nobody_configured_is_refused(untrained_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing):
        load_segmenter(str(untrained_weights), make_settings(tmp_path))


@pytest.mark.parametrize("name", ["demo-sam2", "sam2.1_hiera_large", "sam2_hiera_tiny"])
def test_sam2_is_named_but_not_here_yet(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"{name} is a SAM-2, which this release does not run yet") as failure:
        load_segmenter(name, make_settings(tmp_path))
    assert failure.value.permanent


def test_torch_is_not_imported_before_a_model_is_loaded() -> None:
    """The code server imports these modules, and torch would cost it three seconds and half a gigabyte."""
    script = (
        "import sys, seg_pipeline.segmenters.warm, seg_pipeline.segmenters.weights\n"
        "heavy = {'torch', 'ultralytics', 'torchvision', 'cv2'} & set(sys.modules)\n"
        "sys.exit(f'imports {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=Path.cwd(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
