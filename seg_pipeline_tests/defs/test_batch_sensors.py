"""Ticks that advance batches."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from seg_pipeline.defs.batch_sensors import batches_sensor
from seg_pipeline.defs.sensors import inbox_sensor
from seg_pipeline.errors import StoreUnavailable
from seg_pipeline.jobs.heartbeats import WorkerHeartbeat, write_heartbeat
from seg_pipeline.pipeline.stages import StageContext
from seg_pipeline_tests.builders import accept_upload, bring_picture
from seg_pipeline_tests.defs.runs import make_quick_context
from seg_pipeline_tests.jobs.batches_in_store import ID, accept_batch


def tick(stage_context: StageContext, instance: dg.DagsterInstance) -> str:
    """Evaluates the sensor once; what it says."""
    context = dg.build_sensor_context(instance=instance, resources={"stage_context": stage_context})
    skipped = batches_sensor(context)
    assert isinstance(skipped, dg.SkipReason)
    return skipped.skip_message or ""


def test_a_tick_says_what_it_did(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    stage_context = make_quick_context(tmp_path)
    accept_batch(stage_context.repository)
    said = tick(stage_context, instance)
    assert said == "1 batches under way: 3 jobs accepted, 0 ends counted, 0 batches ended."
    assert len(stage_context.repository.fetches.uuids()) == 3


def test_more_workers_have_more_under_way(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    stage_context = make_quick_context(tmp_path, batch_size=2)
    batch = accept_batch(stage_context.repository, 30)
    tick(stage_context, instance)
    assert stage_context.repository.batches.progress(batch).states.count("o") == 8
    now = datetime.now(UTC)
    for name in ("one", "two"):
        write_heartbeat(stage_context.store, WorkerHeartbeat(name, 1, "here", now, now))
    tick(stage_context, instance)
    assert stage_context.repository.batches.progress(batch).states.count("o") == 16


def test_while_the_store_is_away_a_tick_says_so(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage_context = make_quick_context(tmp_path)

    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("The bucket does not answer.")

    monkeypatch.setattr(stage_context.repository.batch_work, "advance", away)
    assert "The bucket does not answer." in tick(stage_context, instance)


def test_a_job_of_its_own_goes_before_a_batch_and_in_a_run_of_its_own(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    stage_context = make_quick_context(tmp_path)
    batch = accept_batch(stage_context.repository)
    tick(stage_context, instance)
    for uuid in stage_context.repository.fetches.uuids():
        bring_picture(stage_context.repository, uuid)
    accept_upload(stage_context, "lone")
    context = dg.build_sensor_context(instance=instance, resources={"stage_context": stage_context})
    result = inbox_sensor(context)
    assert isinstance(result, dg.SensorResult)
    runs = [
        (request.tags["seg/jobs"], request.tags.get("seg/batch"))
        for request in result.run_requests or []
    ]
    assert runs == [("1", None), ("3", ID)]
    assert batch.id == ID
