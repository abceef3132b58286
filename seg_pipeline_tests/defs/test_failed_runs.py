"""Runs that failed: which are told, how often, and that none is missed."""

import json
from datetime import timedelta

import dagster as dg
import pytest

from seg_pipeline.defs.alarms import (
    build_failure_alerts_sensor,
)
from seg_pipeline.defs.failed_runs import REPEATED_AFTER, FailureMemory, RunFailure, failure_of
from seg_pipeline.pipeline.stages import StageContext
from seg_pipeline.settings import Settings
from seg_pipeline_tests.builders import NOON
from seg_pipeline_tests.webhooks import Webhook


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


def failure(code: str = "model_failed", is_final: bool = True, run_id: str = "r") -> RunFailure:
    return RunFailure(run_id, "segment_images", code, "it fell over.", is_final)


@pytest.mark.parametrize(
    ("code", "is_final", "is_ours"),
    [
        ("model_failed", True, True),
        ("model_failed", False, False),
        ("not_an_image", True, False),
        ("cancelled", True, False),
        ("run_failed", True, True),
    ],
)
def test_somebody_is_woken_for_what_is_ours_and_final(
    code: str, is_final: bool, is_ours: bool
) -> None:
    assert failure(code, is_final).is_ours is is_ours


def test_a_kind_is_due_again_after_an_hour_with_the_count_and_the_latest() -> None:
    memory = FailureMemory.read(None, NOON)
    memory.count(failure(run_id="r1"), NOON)
    assert memory.due_lines(NOON) == [
        "FAILED model_failed: run r1 of segment_images: it fell over."
    ]
    for run_id in ("r2", "r3"):
        memory.count(failure(run_id=run_id), NOON)
    assert memory.due_lines(NOON + REPEATED_AFTER - timedelta(seconds=1)) == []
    assert memory.due_lines(NOON + REPEATED_AFTER) == [
        "FAILED model_failed (2 since the last message): run r3 of segment_images: it fell over."
    ]
    assert memory.due_lines(NOON + 2 * REPEATED_AFTER) == []


def test_kinds_do_not_wait_for_one_another() -> None:
    memory = FailureMemory.read(None, NOON)
    memory.count(failure(), NOON)
    memory.due_lines(NOON)
    memory.count(failure("worker_lost"), NOON)
    assert [line.split()[1] for line in memory.due_lines(NOON)] == ["worker_lost:"]


def test_a_cursor_holds_all_that_is_remembered() -> None:
    memory = FailureMemory.read(None, NOON)
    memory.count(failure(), NOON)
    memory.due_lines(NOON)
    memory.count(failure("worker_lost"), NOON)
    assert FailureMemory.read(memory.cursor(), NOON + REPEATED_AFTER) == memory


@pytest.mark.parametrize("cursor", [None, "", "no JSON", "[]", "3", "{}", '{"seen": []}'])
def test_a_cursor_that_cannot_be_read_begins_anew(cursor: str | None) -> None:
    assert FailureMemory.read(cursor, NOON) == FailureMemory(NOON.isoformat())


def test_a_newer_versions_cursor_is_read_without_what_is_not_known() -> None:
    cursor = json.dumps({"updated_after": NOON.isoformat(), "new": 1})
    assert FailureMemory.read(cursor, NOON) == FailureMemory(NOON.isoformat())


def test_a_run_that_ended_outside_its_steps_says_so(instance: dg.DagsterInstance) -> None:
    @dg.job
    def nothing() -> None:
        """A job without steps."""

    run = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.FAILURE)
    found = failure_of(instance, run)
    assert (found.code, found.is_final, found.is_ours) == ("run_failed", True, True)
