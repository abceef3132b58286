import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from seg_pipeline.domain import RgbImage
from seg_pipeline.errors import WeightsMissing
from seg_pipeline.model_parameters import default_parameters
from seg_pipeline.segmenters.registry import load_segmenter
from seg_pipeline.segmenters.sam2.segmenter import Sam2Segmenter
from seg_pipeline.settings import Settings
from seg_pipeline_tests.segmenters.models import save_untrained_sam2

pytestmark = pytest.mark.process


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


def test_a_sam2_loads_with_the_settings_parameters(tmp_path: Path) -> None:
    save_untrained_sam2(tmp_path / "demo-sam2.pt")
    settings = make_settings(tmp_path).model_copy(
        update={"sam2_points_per_side": 5, "sam2_box_nms_thresh": 0.6}
    )
    with patch("seg_pipeline.segmenters.weights.locate.BUNDLED", tmp_path):
        segmenter = load_segmenter("demo-sam2", settings)
    assert isinstance(segmenter, Sam2Segmenter)
    assert segmenter.parameters == replace(
        default_parameters("demo-sam2"), points_per_side=5, box_nms_thresh=0.6
    )


def test_a_sam2_that_was_never_published_has_no_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="are not here yet"):
        load_segmenter("sam2.1_hiera_huge", make_settings(tmp_path))


def test_torch_is_not_imported_before_a_model_is_loaded() -> None:
    """The code server imports these modules, and torch would cost it three seconds and half a
    gigabyte."""
    script = (
        "import sys, seg_pipeline.segmenters.warm, seg_pipeline.segmenters.weights.locate\n"
        "heavy = {'torch', 'ultralytics', 'torchvision', 'sam2', 'cv2'} & set(sys.modules)\n"
        "sys.exit(f'imports {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path.cwd(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
