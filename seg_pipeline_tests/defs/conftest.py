"""What the tests of sensors, recovery and alarms stand on."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from seg_pipeline.pipeline.stages import StageContext
from seg_pipeline.segmenters.warm import WarmModels
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline_tests.conftest import make_settings
from seg_pipeline_tests.dagster_instances import share_migrations
from seg_pipeline_tests.webhooks import Webhook, webhook

share_migrations()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def people() -> Iterator[Webhook]:
    """Those on duty."""
    with webhook() as double:
        yield double


@pytest.fixture
def stage_context(people: Webhook) -> StageContext:
    """A service with a webhook and nothing to do."""
    settings = make_settings(Path("nowhere"), alert_webhook_url=people.url)
    return StageContext(settings, ObjectStore.in_memory(), WarmModels(settings))
