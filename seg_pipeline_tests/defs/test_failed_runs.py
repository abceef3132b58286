"""Runs that failed: which are told, how often, and that none is missed."""

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from seg_pipeline.defs.alarms import (
    build_failure_alerts_sensor,
)
from seg_pipeline.pipeline.stages import StageContext
from seg_pipeline.segmenters.warm import WarmModels
from seg_pipeline.settings import Settings
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline_tests.builders import NOON
from seg_pipeline_tests.conftest import make_settings
from seg_pipeline_tests.webhooks import Webhook, webhook


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


def failing_job(instance: dg.DagsterInstance, error: Exception) -> None:
    """A run that fails with this error."""

    @dg.op
    def fail() -> None:
        raise error

    @dg.job(name="segment_images")
    def job() -> None:
        fail()

    job.execute_in_process(instance=instance, raise_on_error=False)


def reported(code: str, sentence: str, final: bool = True) -> dg.Failure:
    """How a stage ends the run of a lone job."""
    return dg.Failure(
        sentence, metadata={"job": "job-1", "code": code, "final": final}, allow_retries=False
    )


def tick_alerts(settings: Settings, instance: dg.DagsterInstance, cursor: str | None) -> str:
    """One tick of `failure_alerts`; the cursor for the next."""
    context = dg.build_sensor_context(instance=instance, cursor=cursor)
    result = build_failure_alerts_sensor(settings)(context)
    assert isinstance(result, dg.SensorResult)
    assert result.cursor
    return result.cursor


def test_only_final_failures_of_ours_are_posted(
    stage_context: StageContext, instance: dg.DagsterInstance, people: Webhook
) -> None:
    cursor = tick_alerts(stage_context.settings, instance, None)
    failing_job(instance, reported("not_an_image", "it is no picture."))
    failing_job(instance, reported("store_unavailable", "it is tried again.", final=False))
    failing_job(instance, reported("model_failed", "the model fell over."))
    failing_job(instance, ValueError("nobody foresaw this"))
    tick_alerts(stage_context.settings, instance, cursor)
    (text,) = people.texts
    lines = sorted(text.splitlines())
    assert len(lines) == 2
    assert lines[0].startswith("FAILED internal_error: run ")
    assert "nobody foresaw this" in lines[0]
    assert lines[1].startswith("FAILED model_failed: run ")
    assert lines[1].endswith("the model fell over.")


def test_the_same_failure_is_posted_once_and_then_counted(
    stage_context: StageContext, instance: dg.DagsterInstance, people: Webhook
) -> None:
    cursor = tick_alerts(stage_context.settings, instance, None)
    for _ in range(3):
        failing_job(instance, reported("model_failed", "the model fell over."))
        cursor = tick_alerts(stage_context.settings, instance, cursor)
    assert len(people.texts) == 1
    memory = json.loads(cursor)
    assert memory["counted"] == {"model_failed": 2}
    memory["posted"]["model_failed"] = NOON.isoformat()
    cursor = tick_alerts(stage_context.settings, instance, json.dumps(memory))
    assert people.texts[1].startswith("FAILED model_failed (2 since the last message): run ")
    assert json.loads(cursor)["counted"] == {}


def test_no_run_is_looked_at_twice_and_none_is_missed(
    stage_context: StageContext,
    instance: dg.DagsterInstance,
    people: Webhook,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also if more failed than a tick looks at."""
    monkeypatch.setattr("seg_pipeline.defs.failed_runs.RUNS_PER_TICK", 2)
    cursor = tick_alerts(stage_context.settings, instance, None)
    for number in range(5):
        failing_job(instance, reported("model_failed", f"number {number}."))
    for _ in range(4):
        cursor = tick_alerts(stage_context.settings, instance, cursor)
    assert len(people.texts) == 1
    assert json.loads(cursor)["counted"]["model_failed"] + 1 + (2 - 1) == 5


def test_runs_before_the_first_tick_are_no_news(
    stage_context: StageContext, instance: dg.DagsterInstance, people: Webhook
) -> None:
    memory = {"updated_after": "2099-01-01T00:00:00+00:00"}
    failing_job(instance, reported("model_failed", "long ago."))
    tick_alerts(stage_context.settings, instance, json.dumps(memory))
    assert people.texts == []
