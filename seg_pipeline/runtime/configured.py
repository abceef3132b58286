"""What Dagster builds from dagster.yaml, where `Settings` says all."""

from collections.abc import Mapping
from typing import Any, Self

from dagster._serdes import ConfigurableClass, ConfigurableClassData


class ConfiguredBySettings(ConfigurableClass):
    """A class that dagster.yaml names without any configuration."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        super().__init__()

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """Where dagster.yaml names the class."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """An empty schema."""
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        """Builds it from dagster.yaml, as Dagster does."""
        return cls(inst_data=inst_data, **config_value)
