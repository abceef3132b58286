"""What is counted of a job's end and of a fetch."""

import pytest

from seg_pipeline.errors import FetchRejected
from seg_pipeline.telemetry import metrics
from seg_pipeline.telemetry.snapshots import current_samples

ENDED = {"status": "failed", "model": "demo-yolo", "accepted_at": "2026-01-02T12:00:00+00:00"}


def counted(name: str, **labels: str) -> float:
    """A sample's value so far."""
    return current_samples().get((name, tuple(sorted(labels.items()))), 0.0)


@pytest.mark.parametrize(("code", "fault"), [("worker_lost", "ours"), ("not_an_image", "client")])
def test_a_failed_job_is_counted_with_whose_fault_it_was(code: str, fault: str) -> None:
    labels = {"status": "failed", "code": code, "fault": fault, "model": "demo-yolo", "via": "sqs"}
    before = (
        counted("seg_jobs_finished_total", **labels),
        counted("seg_own_failures_total", code=code),
    )
    metrics.job_finished(
        {**ENDED, "completed_at": "2026-01-02T12:00:03+00:00", "error": {"code": code}}, "sqs"
    )
    after = (
        counted("seg_jobs_finished_total", **labels),
        counted("seg_own_failures_total", code=code),
    )
    assert (after[0] - before[0], after[1] - before[1]) == (1, fault == "ours")


def test_a_completed_job_is_counted_with_its_stages_and_its_time() -> None:
    result = {**ENDED, "status": "completed", "error": None, "seconds": {"cutouts": 0.5}}
    names = (
        ("seg_job_seconds_sum", {"status": "completed", "via": "http"}),
        ("seg_stage_seconds_sum", {"stage": "cutouts"}),
    )
    before = [counted(name, **labels) for name, labels in names]
    metrics.job_finished({**result, "completed_at": "2026-01-02T12:00:03+00:00"}, "http")
    assert [counted(name, **labels) for name, labels in names] == [before[0] + 3, before[1] + 0.5]


def test_clocks_that_disagree_count_as_no_time() -> None:
    before = counted("seg_job_seconds_sum", status="failed", via="http")
    metrics.job_finished(
        {**ENDED, "completed_at": "2026-01-02T11:00:00+00:00", "error": {"code": "error"}}, "http"
    )
    assert counted("seg_job_seconds_sum", status="failed", via="http") == before


def test_a_fetch_is_counted_by_its_outcome() -> None:
    before = (
        counted("seg_fetches_total", outcome="fetched"),
        counted("seg_fetches_total", outcome="fetch_rejected"),
    )
    with metrics.fetching():
        pass
    with pytest.raises(FetchRejected), metrics.fetching():
        raise FetchRejected("the server answered 404.")
    assert counted("seg_fetches_total", outcome="fetched") == before[0] + 1
    assert counted("seg_fetches_total", outcome="fetch_rejected") == before[1] + 1
