"""Recovery: what a run that ended or was lost means for each of its jobs."""

import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from seg_pipeline.defs.recovery import recover
from seg_pipeline.jobs.claims import Claim
from seg_pipeline.jobs.evidence import Evidence, write_evidence
from seg_pipeline.jobs.heartbeats import Heartbeat, WorkerHeartbeat, write_heartbeat
from seg_pipeline.pipeline.stages import StageContext
from seg_pipeline.runtime.upkeep import UPKEEP_TAG
from seg_pipeline.store import keys
from seg_pipeline.store.serialization import write
from seg_pipeline.telemetry import metrics
from seg_pipeline_tests.builders import NOON, accept_upload, error_of, make_result
from seg_pipeline_tests.defs.runs import make_quick_context, make_run


def make_claimed(folder: Path) -> tuple[StageContext, Claim]:
    """A context with one job, claimed for the run `a:1`."""
    stage_context = make_quick_context(folder)
    accept_upload(stage_context, "a")
    (claim,) = stage_context.repository.claims.claim(["a"], "a:1")
    return stage_context, claim


def test_the_sweeper_gives_a_job_up_after_its_last_attempt(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    stage_context = make_quick_context(tmp_path, max_attempts=2)
    accept_upload(stage_context, "a")
    (claim,) = stage_context.repository.claims.claim(["a"], "a:2", attempt=2)
    run = make_run(instance, stage_context, "a:2", dg.DagsterRunStatus.STARTED)
    write_evidence(stage_context.store, "a", Evidence(run.run_id, "segments"))
    report = recover(stage_context, instance, claim.claimed_at)
    assert (report.failed, report.retries) == (1, [])
    assert error_of(stage_context.repository, "a").code == "worker_lost"


def test_a_job_that_ended_its_worker_gets_its_next_attempt(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    stage_context, claim = make_claimed(tmp_path)
    run = make_run(instance, stage_context, "a:1", dg.DagsterRunStatus.STARTED)
    write_evidence(stage_context.store, "a", Evidence(run.run_id, "source_image"))
    (again,) = recover(stage_context, instance, claim.claimed_at).retries
    assert (again.attempt, again.losses) == (2, 0)


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (dg.DagsterRunStatus.STARTED, "worker_lost"),
        (dg.DagsterRunStatus.NOT_STARTED, "not_taken"),
    ],
)
def test_a_run_that_was_lost_is_counted(
    tmp_path: Path, instance: dg.DagsterInstance, status: dg.DagsterRunStatus, cause: str
) -> None:
    """Its jobs are done again, so that nothing else tells an operator whose workers die."""
    stage_context, _ = make_claimed(tmp_path)
    run = make_run(instance, stage_context, "a:1", status)
    later = datetime.now(UTC) + timedelta(hours=1)
    idle = WorkerHeartbeat("idle", 1, "here", later, later, idle_since=later - timedelta(hours=2))
    write_heartbeat(stage_context.store, idle)
    before = _lost(cause)
    recover(stage_context, instance, later)
    assert _lost(cause) == before + 1
    assert _status(instance, run) == "FAILURE"


UPKEEP = {
    "its process never began": ("STARTING", None, timedelta(minutes=2), "FAILURE"),
    "its process may begin yet": ("STARTING", None, timedelta(seconds=20), "STARTING"),
    "its process fell silent": ("STARTED", timedelta(minutes=3), timedelta(minutes=5), "FAILURE"),
    "its process lives": ("STARTED", timedelta(seconds=3), timedelta(minutes=90), "STARTED"),
    "a terminal executes it": ("STARTED", None, timedelta(minutes=30), "STARTED"),
    "nobody executes it any more": ("STARTED", None, timedelta(minutes=90), "FAILURE"),
}


@pytest.mark.parametrize("name", UPKEEP)
def test_a_run_of_upkeep_is_closed_when_its_process_is_gone(
    tmp_path: Path, instance: dg.DagsterInstance, name: str
) -> None:
    """No worker's heartbeat names it. Left open, it would be in progress for ever."""
    before_that, silent_for, age, status = UPKEEP[name]
    stage_context = make_quick_context(tmp_path)
    run = make_upkeep_run(instance, dg.DagsterRunStatus(before_that))
    now = datetime.now(UTC) + age
    if silent_for is not None:
        beat = Heartbeat(run.run_id, 1, "elsewhere", now - silent_for)
        stage_context.store.put(keys.upkeep(run.run_id), write(beat))
    before = _lost("process_lost")
    recover(stage_context, instance, now)
    assert _status(instance, run) == status
    assert _lost("process_lost") == before + (status == "FAILURE")


def test_a_run_of_upkeep_whose_process_died_on_this_host_is_closed_at_once(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """One that was to be cancelled ends as cancelled."""
    stage_context = make_quick_context(tmp_path)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    ends = {dg.DagsterRunStatus.STARTED: "FAILURE", dg.DagsterRunStatus.CANCELING: "CANCELED"}
    runs = [make_upkeep_run(instance, status) for status in ends]
    for run in runs:
        beat = Heartbeat(run.run_id, dead.pid, socket.gethostname(), datetime.now(UTC))
        stage_context.store.put(keys.upkeep(run.run_id), write(beat))
    recover(stage_context, instance, datetime.now(UTC))
    assert [_status(instance, run) for run in runs] == [*ends.values()]


def make_upkeep_run(instance: dg.DagsterInstance, status: dg.DagsterRunStatus) -> dg.DagsterRun:
    """A run of a job whose runs get a process of their own."""

    @dg.job(name="prune")
    def job() -> None:
        pass

    return instance.create_run_for_job(job, status=status, tags={UPKEEP_TAG: "process"})


def _status(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    again = instance.get_run_by_id(run.run_id)
    assert again is not None
    return again.status.value


def _lost(cause: str) -> float:
    return metrics.REGISTRY.get_sample_value("seg_runs_lost_total", {"cause": cause}) or 0


@pytest.mark.parametrize("uuids", [["a"], ["a", "b"]])
@pytest.mark.process
def test_a_job_is_not_given_up_for_a_worker_that_something_else_ended(
    tmp_path: Path, instance: dg.DagsterInstance, uuids: list[str]
) -> None:
    """Its last attempt stays its last, however often that happens; each time after a longer
    pause."""
    stage_context = make_quick_context(tmp_path, max_attempts=2)
    for uuid in uuids:
        accept_upload(stage_context, uuid)
    claim, *_ = stage_context.repository.claims.claim(uuids, "a:2", attempt=2)
    now = claim.claimed_at
    for losses in range(1, 12):
        make_run(instance, stage_context, claim.run_key, dg.DagsterRunStatus.STARTED)
        while not (retries := recover(stage_context, instance, now).retries):
            now += timedelta(seconds=5)
        claim, *others = retries
        assert {(each.attempt, each.losses, each.batch) for each in retries} == {(2, losses, 1)}
        for other in others:
            stage_context.repository.results.finish(make_result(other.uuid, "completed", NOON))
    assert stage_context.repository.result("a") is None


def test_the_sweeper_completes_a_finish_that_died_half_way(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    stage_context, claim = make_claimed(tmp_path)
    stage_context.store.put("assets/a/result.json", write(make_result("a")))
    make_run(instance, stage_context, "a:1", dg.DagsterRunStatus.SUCCESS)
    report = recover(stage_context, instance, claim.claimed_at)
    assert (report.settled, report.failed, report.retries) == (1, 0, [])
    assert stage_context.repository.claims.inflight() == []


def test_a_cancelled_job_fails_as_cancelled(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    stage_context, claim = make_claimed(tmp_path)
    make_run(instance, stage_context, "a:1", dg.DagsterRunStatus.CANCELED)
    recover(stage_context, instance, claim.claimed_at)
    assert error_of(stage_context.repository, "a").code == "cancelled"


def test_a_claim_whose_tick_died_is_asked_for_once_more(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """The same attempt under the same key: should the daemon resume the tick too, Dagster drops the
    second."""
    stage_context, claim = make_claimed(tmp_path)
    assert recover(stage_context, instance, claim.claimed_at + timedelta(seconds=15)).retries == []
    (again,) = recover(stage_context, instance, claim.claimed_at + timedelta(seconds=90)).retries
    assert (again.run_key, again.attempt) == ("a:1", 1)


def test_a_job_that_was_deleted_under_way_stays_deleted(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    stage_context, claim = make_claimed(tmp_path)
    make_run(instance, stage_context, "a:1", dg.DagsterRunStatus.CANCELED)
    stage_context.store.delete("assets/a/request.json")
    recover(stage_context, instance, claim.claimed_at)
    assert stage_context.store.list("assets/a/") == []
    assert stage_context.repository.claims.inflight() == []


def test_one_tick_asks_for_a_bounded_number_of_retries(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seg_pipeline.defs.recovery.RETRIES_PER_TICK", 2)
    stage_context = make_quick_context(tmp_path)
    uuids = [f"job-{index}" for index in range(5)]
    for uuid in uuids:
        accept_upload(stage_context, uuid)
    stage_context.repository.claims.claim(uuids, "job-0:1")
    make_run(instance, stage_context, "job-0:1", dg.DagsterRunStatus.FAILURE)
    retried = [recover(stage_context, instance, NOON.replace(year=2100)).retries for _ in range(1)]
    assert [len(claims) for claims in retried] == [2]
    assert len(stage_context.repository.claims.inflight()) == 5
