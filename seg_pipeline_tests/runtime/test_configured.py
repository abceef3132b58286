"""Dagster builds from dagster.yaml what needs no configuration there."""

import pytest
from dagster import Field
from dagster._config import Shape, process_config
from dagster._core.launcher import RunLauncher
from dagster._core.storage.base_storage import DagsterStorage
from dagster._serdes import ConfigurableClassData

from seg_pipeline.runtime.configured import ConfiguredBySettings
from seg_pipeline.runtime.dagster_storage import SegPipelineStorage
from seg_pipeline.runtime.launcher import WarmRunLauncher

NAMED = [
    (SegPipelineStorage, "seg_pipeline.dagster_storage", DagsterStorage),
    (WarmRunLauncher, "seg_pipeline.launcher", RunLauncher),
]


@pytest.mark.parametrize(("kind", "module", "base"), NAMED)
def test_it_is_built_by_its_name_alone(
    kind: type[ConfiguredBySettings], module: str, base: type[object]
) -> None:
    named = ConfigurableClassData(module, kind.__name__, "{}\n")
    built = named.rehydrate(as_type=ConfiguredBySettings)
    assert isinstance(built, kind)
    assert isinstance(built, base)
    assert built.inst_data == named


@pytest.mark.parametrize(("kind", "module", "base"), NAMED)
def test_dagster_yaml_can_set_nothing(
    kind: type[ConfiguredBySettings], module: str, base: type[object]
) -> None:
    schema = Shape({name: Field(each) for name, each in kind.config_type().items()})
    assert process_config(schema, {}).success
    assert not process_config(schema, {"url": "sqlite://"}).success
