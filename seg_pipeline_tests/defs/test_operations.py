"""The operators' jobs: listing by default, doing it where they are told to."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from seg_pipeline.defs.assets import segmentation_assets
from seg_pipeline.defs.operations import operator_jobs
from seg_pipeline.defs.resources import PassedJobs
from seg_pipeline.errors import BatchNotFound, FetchGivenUp, UnexpectedError, UnknownModel
from seg_pipeline.jobs.deliveries import DeliveryState, Policy
from seg_pipeline.jobs.drain import read_drain
from seg_pipeline.pipeline.stages import StageContext, fail_job
from seg_pipeline.runtime.backfills import is_backfill_over
from seg_pipeline_tests.builders import accept_upload, end_queue_job, make_context
from seg_pipeline_tests.jobs.batches_in_store import ID, accept_batch, advance, finish_waiting

pytestmark = pytest.mark.process


def run(
    stage_context: StageContext,
    instance: dg.DagsterInstance,
    name: str,
    config: dict[str, Any],
    op: str,
) -> dict[str, Any]:
    """Runs the job as the UI launches it. Gives the figures that it shows."""
    definitions = dg.Definitions(
        assets=[segmentation_assets],
        jobs=operator_jobs,
        resources={"stage_context": stage_context, "passed_jobs": PassedJobs()},
    )
    result = definitions.resolve_job_def(name).execute_in_process(
        instance=instance, run_config={"ops": {op: {"config": config}}}
    )
    (event,) = [event for event in result.all_events if event.event_type_value == "STEP_OUTPUT"]
    return {label: value.value for label, value in event.step_output_data.metadata.items()}


@pytest.fixture
def failed(tmp_path: Path) -> StageContext:
    """Two jobs that failed, one by a host that did not answer."""
    stage_context = make_context(tmp_path)
    errors = {
        "unreached": FetchGivenUp("The server does not answer."),
        "lost": UnexpectedError("x"),
    }
    for uuid, error in errors.items():
        accept_upload(stage_context, uuid)
        fail_job(stage_context.repository, uuid, error)
    return stage_context


def rerun(stage_context: StageContext, instance: dg.DagsterInstance, **config: Any) -> Any:
    """The figures of `rerun_failed`."""
    return run(stage_context, instance, "rerun_failed", config, "rerun_failed_jobs")


def test_failed_jobs_are_only_counted_unless_told_otherwise(
    failed: StageContext, instance: dg.DagsterInstance
) -> None:
    assert rerun(failed, instance) == {"failed": 2, "dry_run": True, "backfill": "none"}
    assert not instance.get_backfills()


def test_failed_jobs_become_one_backfill(
    failed: StageContext, instance: dg.DagsterInstance
) -> None:
    shown = rerun(failed, instance, dry_run=False)
    (backfill,) = instance.get_backfills()
    assert shown["backfill"] == backfill.backfill_id
    assert set(instance.get_dynamic_partitions("jobs")) == {"unreached", "lost"}


def test_a_code_chooses_the_jobs_with_that_error(
    failed: StageContext, instance: dg.DagsterInstance
) -> None:
    assert rerun(failed, instance, code="fetch_unavailable")["failed"] == 1


def test_what_failed_before_is_left_alone(
    failed: StageContext, instance: dg.DagsterInstance
) -> None:
    assert rerun(failed, instance, hours=0.0)["failed"] == 0


def test_nothing_that_failed_makes_no_backfill(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    assert rerun(make_context(tmp_path), instance, dry_run=False)["backfill"] == "none"
    assert not instance.get_backfills()


@pytest.mark.parametrize(
    ("dry_run", "state"), [(True, DeliveryState.PARKED), (False, DeliveryState.PENDING)]
)
def test_parked_callbacks_are_recorded_anew(
    tmp_path: Path, instance: dg.DagsterInstance, dry_run: bool, state: DeliveryState
) -> None:
    stage_context = make_context(tmp_path)
    end_queue_job(stage_context.repository, "job-1")
    outbox = stage_context.repository.outbox
    delivery = outbox.delivery("job-1")
    assert delivery is not None
    outbox.note(delivery.parked("refused", datetime.now(UTC), Policy(60, 3600)), delivery)
    shown = run(
        stage_context, instance, "replay_callbacks", {"dry_run": dry_run}, "replay_parked_callbacks"
    )
    assert shown == {"parked": 1, "dry_run": dry_run, "not_replayable": 0}
    now = outbox.delivery("job-1")
    assert now is not None
    assert now.state is state


def test_a_drain_is_begun_and_ended(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    stage_context = make_context(tmp_path)
    shown = run(stage_context, instance, "drain", {"minutes": 5}, "drain_runs")
    drain = read_drain(stage_context.store, datetime.now(UTC))
    assert drain
    assert (drain.until - drain.since, shown["jobs_under_way"]) == (timedelta(minutes=5), 0)
    run(stage_context, instance, "drain", {"minutes": 0}, "drain_runs")
    assert read_drain(stage_context.store, datetime.now(UTC)) is None


def test_a_model_is_loaded_and_stays(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    stage_context = make_context(tmp_path)
    shown = run(stage_context, instance, "warm_model", {"model": "demo-yolo"}, "load_model")
    assert shown["weights_sha256"] == "f" * 64
    assert stage_context.models.loaded() == ["demo-yolo"]


def test_a_model_that_is_not_offered_is_refused(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    with pytest.raises(UnknownModel, match="not offered here"):
        run(make_context(tmp_path), instance, "warm_model", {"model": "other"}, "load_model")


def failed_batch(tmp_path: Path) -> StageContext:
    """A batch that has ended, two of its three jobs failed."""
    stage_context = make_context(tmp_path)
    batch = accept_batch(stage_context.repository)
    advance(stage_context.repository)
    finish_waiting(stage_context.repository, failing=(batch.uuid(0), batch.uuid(2)))
    advance(stage_context.repository)
    return stage_context


def rerun_batch(stage_context: StageContext, instance: dg.DagsterInstance, **config: Any) -> Any:
    """The figures of `rerun_batch`."""
    given = {"batch": ID, **config}
    return run(stage_context, instance, "rerun_batch", given, "rerun_failed_of_batch")


def test_what_failed_of_a_batch_is_only_counted_unless_told_otherwise(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    shown = rerun_batch(failed_batch(tmp_path), instance)
    assert shown == {"failed": 2, "dry_run": True, "backfill": "none"}
    assert not instance.get_backfills()


def test_what_failed_of_a_batch_becomes_a_backfill_that_its_end_waits_for(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    stage_context = failed_batch(tmp_path)
    shown = rerun_batch(stage_context, instance, dry_run=False, code="not_an_image")
    (backfill,) = instance.get_backfills()
    assert (shown["failed"], shown["backfill"]) == (2, backfill.backfill_id)
    assert backfill.tags["seg/batch"] == ID
    assert set(instance.get_dynamic_partitions("jobs")) == {
        f"batch-{ID}-000000",
        f"batch-{ID}-000002",
    }
    batches = stage_context.repository.batches
    assert batches.rerun(batches.get(ID)) == backfill.backfill_id
    assert not is_backfill_over(instance, backfill.backfill_id)


def test_a_code_chooses_among_what_failed_of_a_batch(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    assert rerun_batch(failed_batch(tmp_path), instance, code="fetch_failed")["failed"] == 0


def test_a_batch_that_is_not_there_cannot_be_run_again(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    with pytest.raises(BatchNotFound):
        rerun_batch(make_context(tmp_path), instance)
