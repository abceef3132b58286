from pathlib import Path

import numpy as np
import pytest

from seg_pipeline.demo.scenes import make_scene
from seg_pipeline.domain import check_parameters
from seg_pipeline.segmenters.warm import WarmModels
from seg_pipeline.settings import Settings

pytestmark = pytest.mark.process

BOTH = "demo-sam2+demo-yolo"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> WarmModels:
    folder: Path = tmp_path_factory.mktemp("models")
    return WarmModels(Settings(_env_file=None, data_dir=folder, device="cpu"))


def test_the_masks_are_sam2s_and_the_labels_are_yolos(models: WarmModels) -> None:
    scene = make_scene(seed=3, width=640, height=480)
    with models.borrow(BOTH) as both:
        (named,) = both.segment([scene.image])
    with models.borrow("demo-sam2") as sam2:
        (plain,) = sam2.segment([scene.image])
    assert sorted(each.mask.full().tobytes() for each in named) == sorted(
        each.mask.full().tobytes() for each in plain
    )
    labelled = [each for each in named if each.label]
    assert labelled, "the demo models agree on something"
    for each in labelled:
        truth = [thing for thing in scene.objects if thing.label == each.label]
        overlaps = [np.count_nonzero(thing.mask & each.mask.full()) for thing in truth]
        assert max(overlaps) > each.mask.area / 2


def test_both_models_are_borrowed_and_stay_loaded(models: WarmModels) -> None:
    with models.borrow(BOTH) as both:
        assert both.name == BOTH
        assert len(both.weights_sha256) == 64
        assert {"masks_weights_sha256", "labels_inference_mode"} <= both.notes.keys()
        both.close()
    assert models.loaded() == ["demo-sam2", "demo-yolo"]
    with models.borrow("demo-yolo") as yolo:
        assert yolo.segment([make_scene(seed=3).image])[0]


def test_parameters_reach_both_and_the_naming(models: WarmModels) -> None:
    picture = make_scene(seed=3, width=640, height=480).image
    asked = check_parameters(BOTH, {"points_per_side": 8, "confidence": 1, "label_iou": 0.1})
    with models.borrow(BOTH) as both:
        (named,) = both.segment([picture], asked)
        (strict,) = both.segment([picture], check_parameters(BOTH, {"label_iou": 1}))
    assert not any(each.label for each in named), "no detection is that sure"
    assert not any(each.label for each in strict), "no mask agrees to the pixel"


def test_distinct_masks_are_some_of_all(models: WarmModels) -> None:
    picture = make_scene(seed=5, width=640, height=480).image
    loose = {"box_nms_thresh": 1.0}
    with models.borrow(BOTH) as both:
        (every,) = both.segment([picture], loose)
        (distinct,) = both.segment([picture], {**loose, "distinct": 1})
    assert 0 < len(distinct) < len(every)
    names = [each.name for each in distinct if each.name]
    assert len(names) == len(set(names))


def test_the_short_name_may_be_configured_and_kept_warm(tmp_path: Path) -> None:
    settings = Settings(
        _env_file=None,
        data_dir=tmp_path,
        device="cpu",
        model="sam2+yolo",
        queue_model="demo-sam2",
        warm_models="sam2+yolo",
        idle_unload_seconds=1,
    )
    assert settings.wanted_models == ["demo-sam2", "demo-yolo"]
    models = WarmModels(settings)
    models.warm_up()
    assert models.loaded() == ["demo-sam2", "demo-yolo"]
    assert models.unload_idle(now=10**9) == []
