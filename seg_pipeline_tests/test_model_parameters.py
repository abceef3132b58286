"""What models run with where a job sets nothing."""

from dataclasses import fields
from typing import Any

import pytest

from seg_pipeline.domain import (
    DEMO_MODELS,
    NAMING_PARAMETERS,
    SAM2_PARAMETERS,
    YOLO_PARAMETERS,
    check_parameters,
    parameters_of,
)
from seg_pipeline.model_parameters import (
    DEMO_PARAMETERS,
    MEANINGS,
    Sam2Parameters,
    configured_parameters,
    configured_sam2_parameters,
)
from seg_pipeline.settings import Settings

MODELS = ("demo-sam2+demo-yolo", *DEMO_MODELS, "yolov8x-seg", "sam2.1_hiera_large")


def settings(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)


@pytest.mark.parametrize("model", MODELS)
def test_every_parameter_has_a_value_that_a_job_could_set_and_a_sentence(model: str) -> None:
    values = configured_parameters(model, settings())
    assert values.keys() == parameters_of(model).keys()
    check_parameters(model, values)
    assert all(MEANINGS[name].endswith(".") for name in values)


def test_no_sentence_is_about_a_parameter_that_there_is_not() -> None:
    assert MEANINGS.keys() == {*SAM2_PARAMETERS, *YOLO_PARAMETERS, *NAMING_PARAMETERS}


def test_settings_stand_in_for_upstreams_defaults() -> None:
    configured = settings(sam2_points_per_side=8, sam2_crop_n_layers=1, confidence=0.4)
    assert configured_sam2_parameters("sam2.1_hiera_tiny", configured) == Sam2Parameters(
        points_per_side=8, crop_n_layers=1
    )
    assert configured_parameters("yolo11n-seg", configured) == {"confidence": 0.4}


def test_the_demo_model_has_defaults_of_its_own() -> None:
    assert configured_sam2_parameters("demo-sam2", settings()) == DEMO_PARAMETERS


@pytest.mark.parametrize("name", [each.name for each in fields(Sam2Parameters)])
def test_a_setting_names_the_default_that_it_replaces(name: str) -> None:
    setting = Settings.model_fields.get(f"sam2_{name}")
    if setting is not None:
        assert f"{getattr(Sam2Parameters(), name):g} by default" in str(setting.description)
