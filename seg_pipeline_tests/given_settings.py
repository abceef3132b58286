"""Settings of tests."""

from typing import Any

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from seg_pipeline.settings import Settings


class GivenSettings(Settings):
    """Settings of the given values alone: neither the environment nor `.env` is read, which also
    takes seven times as long."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_others: Any,
        **_named: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Where values come from."""
        return (init_settings,)
