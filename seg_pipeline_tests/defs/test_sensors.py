"""Ticks: what waits becomes runs, and what got lost is asked for again."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from seg_pipeline.defs import sensors
from seg_pipeline.defs.batching import RunUnderWay
from seg_pipeline.defs.jobs import segment_images
from seg_pipeline.defs.partitions import RANGE_END_TAG, RANGE_START_TAG
from seg_pipeline.defs.run_config import uuids_in_config
from seg_pipeline.defs.sensors import inbox_sensor, sweeper
from seg_pipeline.domain import Lane
from seg_pipeline.errors import StoreUnavailable
from seg_pipeline.jobs import retries
from seg_pipeline.jobs.claims import Claim, new_run_key
from seg_pipeline.jobs.drain import Drain, begin_drain, end_drain
from seg_pipeline.jobs.heartbeats import WorkerHeartbeat, write_heartbeat
from seg_pipeline.pipeline.stages import StageContext
from seg_pipeline.store import keys
from seg_pipeline_tests.builders import NOON, accept_upload, make_result, waiting_uuids
from seg_pipeline_tests.defs.runs import job_definition, make_quick_context, make_run
from seg_pipeline_tests.pauses import note_pauses

Tick = Callable[[dg.SensorDefinition, StageContext], dg.SensorResult | dg.SkipReason]


@pytest.fixture
def tick(instance: dg.DagsterInstance) -> Tick:
    """Evaluates a sensor once."""

    def evaluate(sensor: dg.SensorDefinition, stage_context: StageContext) -> Any:
        context = dg.build_sensor_context(
            instance=instance, resources={"stage_context": stage_context}
        )
        return sensor(context)

    return evaluate


@dg.job
def tidying() -> None:
    """Another job than the one of the pictures."""


def test_a_quiet_tick_says_what_it_waited_for(tmp_path: Path, tick: Tick) -> None:
    skipped = tick(inbox_sensor, make_quick_context(tmp_path))
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == "No job to ask for in the 0.2 s of this tick."


def test_a_lone_job_gets_a_run_of_its_partition(tmp_path: Path, tick: Tick) -> None:
    stage_context = make_quick_context(tmp_path)
    accept_upload(stage_context, "job-1")
    result = tick(inbox_sensor, stage_context)
    assert isinstance(result, dg.SensorResult)
    (request,) = result.run_requests or []
    assert (request.run_key or "").startswith("job-1:1@")
    assert request.partition_key == "job-1"
    assert [keys.partition_keys for keys in result.dynamic_partitions_requests or []] == [["job-1"]]
    assert [claim.uuid for claim in stage_context.repository.claims.inflight()] == ["job-1"]
    assert waiting_uuids(stage_context.repository, 10) == []


def test_while_the_service_is_drained_no_job_gets_a_run(tmp_path: Path, tick: Tick) -> None:
    stage_context = make_quick_context(tmp_path)
    accept_upload(stage_context, "job-1")
    now = datetime.now(UTC)
    begin_drain(stage_context.store, Drain(now, now + timedelta(hours=1)))
    skipped = tick(inbox_sensor, stage_context)
    assert isinstance(skipped, dg.SkipReason)
    assert "Drained by the job `drain`" in (skipped.skip_message or "")
    assert waiting_uuids(stage_context.repository, 10) == ["job-1"]
    end_drain(stage_context.store)
    assert isinstance(tick(inbox_sensor, stage_context), dg.SensorResult)


def test_a_drain_that_begins_during_a_tick_holds_for_it(
    tmp_path: Path, tick: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage_context = make_quick_context(tmp_path)
    accept_upload(stage_context, "job-1")
    now = datetime.now(UTC)
    answers = [None, Drain(now, now + timedelta(hours=1))]
    monkeypatch.setattr(sensors, "read_drain", lambda *_: answers.pop(0))
    assert isinstance(tick(inbox_sensor, stage_context), dg.SkipReason)
    assert waiting_uuids(stage_context.repository, 10) == ["job-1"]


def test_a_retry_that_came_to_nothing_is_completed_by_the_sweeper(
    tmp_path: Path, tick: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage_context = make_quick_context(tmp_path)
    accept_upload(stage_context, "job-1")
    repository = stage_context.repository
    repository.results.finish(make_result("job-1", "failed", NOON))
    repository.retries.request("job-1")
    stage_context.store.delete(keys.inbox("job-1"))
    monkeypatch.setattr(retries, "_STARTED_WITHIN", timedelta(0))
    tick(sweeper, stage_context)
    assert waiting_uuids(repository, 10) == ["job-1"]


def test_a_backlog_gets_runs_over_ranges(tmp_path: Path, tick: Tick) -> None:
    stage_context = make_quick_context(tmp_path, batch_size=4)
    for index in range(6):
        accept_upload(stage_context, f"job-{index}")
    result = tick(inbox_sensor, stage_context)
    assert isinstance(result, dg.SensorResult)
    first, second = result.run_requests or []
    assert uuids_in_config(first.run_config) + uuids_in_config(second.run_config) == [
        f"job-{i}" for i in range(6)
    ]
    assert (first.tags[RANGE_START_TAG], first.tags[RANGE_END_TAG]) == ("job-0", "job-3")
    assert (second.tags[RANGE_START_TAG], second.tags[RANGE_END_TAG]) == ("job-4", "job-5")


def test_while_runs_wait_a_backlog_is_left_to_grow(
    tmp_path: Path, tick: Tick, instance: dg.DagsterInstance
) -> None:
    stage_context = make_quick_context(tmp_path)
    for run_key in ("a:1", "b:1"):
        make_run(instance, stage_context, run_key, dg.DagsterRunStatus.STARTING)
    accept_upload(stage_context, "job-1")
    assert isinstance(tick(inbox_sensor, stage_context), dg.SkipReason)
    assert waiting_uuids(stage_context.repository, 10) == ["job-1"]


def test_a_full_queue_of_runs_is_looked_at_once_and_again_after_a_pause(
    tmp_path: Path, tick: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look is a query to Dagster's database, under load ten times a second."""
    stage_context, looks, story = (
        make_quick_context(tmp_path, tick_seconds=20.0),
        iter([2, 2, 1]),
        [],
    )

    def look(*_: object) -> list[RunUnderWay]:
        story.append("look")
        return [RunUnderWay("", Lane.SINGLE, False)] * next(looks)

    monkeypatch.setattr(sensors, "_runs_under_way", look)
    note_pauses(monkeypatch, lambda _: story.append("pause"))
    accept_upload(stage_context, "job-1")
    assert isinstance(tick(inbox_sensor, stage_context), dg.SensorResult)
    assert story == ["look", "pause", "look", "pause", "look"]


def test_upkeep_takes_no_room_from_pictures(
    tmp_path: Path, tick: Tick, instance: dg.DagsterInstance
) -> None:
    for _ in range(3):
        instance.create_run_for_job(tidying, status=dg.DagsterRunStatus.STARTED)
    stage_context = make_quick_context(tmp_path)
    accept_upload(stage_context, "job-1")
    assert isinstance(tick(inbox_sensor, stage_context), dg.SensorResult)


def test_a_marker_of_a_finished_job_makes_no_run(tmp_path: Path, tick: Tick) -> None:
    stage_context = make_quick_context(tmp_path)
    accept_upload(stage_context, "job-1")
    stage_context.repository.results.finish(make_result("job-1", "completed", NOON))
    stage_context.store.put("inbox/job-1", b"")
    skipped = tick(inbox_sensor, stage_context)
    assert isinstance(skipped, dg.SkipReason)
    assert waiting_uuids(stage_context.repository, 10) == []


def test_the_sweeper_asks_again_alone_for_what_a_dead_worker_held(
    tmp_path: Path, tick: Tick, instance: dg.DagsterInstance
) -> None:
    stage_context = make_quick_context(tmp_path)
    for uuid in ("a", "b"):
        accept_upload(stage_context, uuid)
    stage_context.repository.claims.claim(["a", "b"], "a:1")
    run = make_run(instance, stage_context, "a:1", dg.DagsterRunStatus.STARTED)
    result = tick(sweeper, stage_context)
    assert isinstance(result, dg.SensorResult)
    requests = result.run_requests or []
    assert [((request.run_key or "").partition("@")[0],
             request.partition_key) for request in requests] == [
        ("a:2", "a"), ("b:2", "b")
    ]  # fmt: skip
    closed = instance.get_run_by_id(run.run_id)
    assert closed is not None
    assert closed.status is dg.DagsterRunStatus.FAILURE


def test_the_sweeper_leaves_a_run_that_a_live_worker_names(
    tmp_path: Path, tick: Tick, instance: dg.DagsterInstance
) -> None:
    stage_context = make_quick_context(tmp_path)
    accept_upload(stage_context, "a")
    (claim,) = stage_context.repository.claims.claim(["a"], "a:1")
    run = make_run(instance, stage_context, "a:1", dg.DagsterRunStatus.STARTED)
    now = claim.claimed_at
    write_heartbeat(
        stage_context.store,
        WorkerHeartbeat("worker-1", 1, "here", now, now, run_id=run.run_id, uuids=("a",)),
    )
    assert isinstance(tick(sweeper, stage_context), dg.SkipReason)


@pytest.mark.parametrize(
    ("state", "closed"),
    [
        (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE),
        (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED),
    ],
)
def test_a_dead_run_whose_jobs_have_ended_is_closed_and_frees_its_room(
    state: dg.DagsterRunStatus,
    closed: dg.DagsterRunStatus,
    tmp_path: Path,
    tick: Tick,
    instance: dg.DagsterInstance,
) -> None:
    """Its worker died when all its jobs had ended: no claim leads to it any more. Two such runs
    would keep a worker from new ones for ever."""
    stage_context = make_quick_context(tmp_path)
    dead = [make_run(instance, stage_context, f"{name}:1", state) for name in ("a", "b")]
    accept_upload(stage_context, "job-1")
    if state is dg.DagsterRunStatus.STARTED:
        assert isinstance(tick(inbox_sensor, stage_context), dg.SkipReason)
    assert isinstance(tick(sweeper, stage_context), dg.SkipReason)
    assert {instance.get_run_by_id(run.run_id).status for run in dead} == {closed}  # type: ignore[union-attr]
    assert isinstance(tick(inbox_sensor, stage_context), dg.SensorResult)


@pytest.mark.parametrize(
    "state",
    [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.STARTING],
)
def test_an_operators_run_that_a_worker_names_or_has_not_begun_yet_is_left(
    state: dg.DagsterRunStatus, tmp_path: Path, tick: Tick, instance: dg.DagsterInstance
) -> None:
    stage_context, now = make_quick_context(tmp_path), datetime.now(UTC)
    run = instance.create_run_for_job(job_definition(stage_context), status=state)
    beat = WorkerHeartbeat("worker-1", 1, "here", now, now, run_id=run.run_id, uuids=("a",))
    write_heartbeat(stage_context.store, beat)
    assert isinstance(tick(sweeper, stage_context), dg.SkipReason)
    assert instance.get_run_by_id(run.run_id).status is state  # type: ignore[union-attr]


def test_runs_of_other_jobs_are_nothing_to_recover(
    tmp_path: Path, tick: Tick, instance: dg.DagsterInstance
) -> None:
    run = instance.create_run_for_job(tidying, status=dg.DagsterRunStatus.STARTED)
    assert isinstance(tick(sweeper, make_quick_context(tmp_path)), dg.SkipReason)
    assert instance.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.STARTED  # type: ignore[union-attr]


def test_a_store_that_was_away_does_not_make_workers_look_dead(
    tmp_path: Path, tick: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They could not beat meanwhile, and get the time to."""
    stage_context = make_quick_context(tmp_path)

    def away() -> list[Claim]:
        raise StoreUnavailable("The bucket does not answer.")

    slept: list[float] = []
    monkeypatch.setattr(stage_context.repository.claims, "inflight", away)
    note_pauses(monkeypatch, slept.append)
    skipped = tick(sweeper, stage_context)
    assert isinstance(skipped, dg.SkipReason)
    assert "The bucket does not answer." in (skipped.skip_message or "")
    assert slept == [2 * stage_context.settings.heartbeat_seconds]


def test_while_the_store_is_away_a_tick_says_so(
    tmp_path: Path, tick: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage_context = make_quick_context(tmp_path)

    def away(limit: int) -> None:
        raise StoreUnavailable("The bucket does not answer.")

    monkeypatch.setattr(stage_context.repository.claims, "waiting", away)
    skipped = tick(inbox_sensor, stage_context)
    assert isinstance(skipped, dg.SkipReason)
    assert "The bucket does not answer." in (skipped.skip_message or "")


def test_a_uuid_that_is_used_again_gets_a_new_run(tmp_path: Path, tick: Tick) -> None:
    """Dagster makes no second run of a key, and keeps the deleted job's runs for a while."""
    stage_context = make_quick_context(tmp_path)
    run_keys = []
    for moment in (NOON, NOON + timedelta(seconds=1)):
        accept_upload(stage_context, "a")
        (claim,) = stage_context.repository.claims.claim(["a"], new_run_key("a", 1, moment))
        run_keys.append(claim.run_key)
        stage_context.repository.removal.delete("a")
    assert len(set(run_keys)) == 2


def test_every_sensor_names_its_job() -> None:
    assert {sensors.inbox_sensor.job_name, sensors.sweeper.job_name} == {segment_images.name}
