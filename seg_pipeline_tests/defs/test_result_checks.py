"""The audit as Dagster shows it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from seg_pipeline.defs.assets import segmentation_assets
from seg_pipeline.defs.resources import PassedJobs
from seg_pipeline.defs.result_checks import (
    audit_job,
    audited_asset,
    callbacks_delivered,
    result_audit,
)
from seg_pipeline.monitoring.result_audit import CHECKS
from seg_pipeline.pipeline.stages import StageContext
from seg_pipeline.store import keys
from seg_pipeline_tests.builders import accept_upload, end_queue_job, make_context
from seg_pipeline_tests.stage_runs import run_stages

pytestmark = pytest.mark.process


def run_audit(
    stage_context: StageContext, instance: dg.DagsterInstance
) -> dict[str, dg.AssetCheckEvaluation]:
    """The audit as its schedule starts it: every check's evaluation by name."""
    definitions = dg.Definitions(
        assets=[segmentation_assets, audited_asset],
        asset_checks=[result_audit, callbacks_delivered],
        jobs=[audit_job],
        resources={"stage_context": stage_context, "passed_jobs": PassedJobs()},
    )
    result = definitions.resolve_job_def("audit_results").execute_in_process(instance=instance)
    return {each.check_name: each for each in result.get_asset_check_evaluations()}


def test_every_check_passes_on_what_the_stages_wrote(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    stage_context = make_context(tmp_path)
    accept_upload(stage_context, "job-1")
    run_stages(stage_context, "job-1")
    evaluations = run_audit(stage_context, instance)
    assert set(evaluations) == {*CHECKS, "callbacks_delivered"}
    assert all(each.passed for each in evaluations.values())
    assert evaluations["files_there"].metadata["audited"].value == 1


def test_a_failed_check_names_the_job(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    stage_context = make_context(tmp_path)
    accept_upload(stage_context, "job-1")
    run_stages(stage_context, "job-1")
    stage_context.store.delete(keys.overlay("job-1"))
    evaluation = run_audit(stage_context, instance)["files_there"]
    assert not evaluation.passed
    assert "`job-1`: assets/job-1/overlay.webp is missing" in str(
        evaluation.metadata["named"].value
    )


@pytest.mark.parametrize(("minutes", "passed"), [(9, True), (11, False)])
def test_a_callback_that_waits_for_ten_minutes_is_late(
    tmp_path: Path, instance: dg.DagsterInstance, minutes: int, passed: bool
) -> None:
    stage_context = make_context(tmp_path)
    end_queue_job(stage_context.repository, "job-1")
    recorded = datetime.now(UTC) - timedelta(minutes=minutes)
    stage_context.repository.outbox.replay("job-1", recorded)
    assert run_audit(stage_context, instance)["callbacks_delivered"].passed is passed
