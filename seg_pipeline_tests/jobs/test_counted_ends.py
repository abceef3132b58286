"""What is counted of a job's end."""

from datetime import timedelta
from typing import Any

import pytest

from seg_pipeline.jobs.records import FailureReason, Result
from seg_pipeline.jobs.repository import count_end
from seg_pipeline_tests.builders import NOON, make_result
from seg_pipeline_tests.telemetry.test_metrics import counted


def make_ended(after_seconds: float = 3, **fields: Any) -> Result:
    """A job that ended so long after its acceptance."""
    return make_result(completed_at=NOON + timedelta(seconds=after_seconds), **fields)


@pytest.mark.parametrize(("code", "fault"), [("worker_lost", "ours"), ("not_an_image", "client")])
def test_a_failed_job_is_counted_with_whose_fault_it_was(code: str, fault: str) -> None:
    labels = {"status": "failed", "code": code, "fault": fault, "model": "demo-yolo", "via": "sqs"}
    before = (
        counted("seg_jobs_finished_total", **labels),
        counted("seg_own_failures_total", code=code),
    )
    count_end(make_ended(status="failed", error=FailureReason(code, "So.")), "sqs")
    after = (
        counted("seg_jobs_finished_total", **labels),
        counted("seg_own_failures_total", code=code),
    )
    assert (after[0] - before[0], after[1] - before[1]) == (1, fault == "ours")


def test_a_completed_job_is_counted_with_its_stages_and_its_time() -> None:
    names = (
        ("seg_job_seconds_sum", {"status": "completed", "via": "http"}),
        ("seg_stage_seconds_sum", {"stage": "cutouts"}),
    )
    before = [counted(name, **labels) for name, labels in names]
    count_end(make_ended(seconds={"cutouts": 0.5}), "http")
    assert [counted(name, **labels) for name, labels in names] == [before[0] + 3, before[1] + 0.5]


def test_clocks_that_disagree_count_as_no_time() -> None:
    before = counted("seg_job_seconds_sum", status="failed", via="http")
    count_end(make_ended(-3600, status="failed", error=FailureReason("error", "So.")), "http")
    assert counted("seg_job_seconds_sum", status="failed", via="http") == before
