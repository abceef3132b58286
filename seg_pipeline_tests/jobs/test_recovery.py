"""The sweeper's judgement: every way for a run to die ends in another attempt, and nothing living is touched."""

from datetime import timedelta
from typing import Any

import pytest

from seg_pipeline.jobs.heartbeats import WorkerBeat
from seg_pipeline.jobs.recovery import RunState, RunView, Surroundings, Verdict, judge, retry_pause
from seg_pipeline.jobs.repository import Claim
from seg_pipeline_tests.builders import NOON


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def make_claim(attempt: int = 1, age: float = 0) -> Claim:
    return Claim("job-1", attempt, f"job-1:{attempt}", NOON - seconds(age))


def make_run(state: RunState, age: float = 30, ended: float | None = None) -> RunView:
    return RunView("run-1", state, NOON - seconds(age), None if ended is None else NOON - seconds(ended))


def make_beat(run_id: str | None = None, idle_for: float | None = None) -> WorkerBeat:
    idle_since = None if idle_for is None else NOON - seconds(idle_for)
    return WorkerBeat("worker-1", 1, "here", NOON, NOON, run_id=run_id, idle_since=idle_since)


def verdict(run: RunView | None, *beats: WorkerBeat, claim: Claim | None = None, **around: Any) -> Verdict:
    return judge(claim or make_claim(), run, Surroundings(NOON, beats, **around))


def test_a_run_that_a_live_worker_names_is_left_alone() -> None:
    assert verdict(make_run(RunState.STARTED), make_beat(run_id="run-1")) is Verdict.WAIT


def test_a_started_run_that_no_worker_names_has_lost_its_worker() -> None:
    assert verdict(make_run(RunState.STARTED), make_beat(run_id="another")) is Verdict.CLOSE_AND_RETRY
    assert verdict(make_run(RunState.STARTED)) is Verdict.CLOSE_AND_RETRY


def test_a_run_may_wait_in_the_broker_for_as_long_as_every_worker_is_busy() -> None:
    assert verdict(make_run(RunState.WAITING, age=10_000), make_beat(run_id="another")) is Verdict.WAIT


def test_a_run_may_wait_while_there_is_no_worker_at_all() -> None:
    assert verdict(make_run(RunState.WAITING, age=10_000)) is Verdict.WAIT


def test_a_run_that_an_idle_worker_does_not_take_has_lost_its_message() -> None:
    assert verdict(make_run(RunState.WAITING, age=30), make_beat(idle_for=30)) is Verdict.CLOSE_AND_RETRY


def test_a_worker_that_has_only_just_become_idle_may_still_take_the_run() -> None:
    assert verdict(make_run(RunState.WAITING, age=300), make_beat(idle_for=2)) is Verdict.WAIT
    assert verdict(make_run(RunState.WAITING, age=2), make_beat(idle_for=300)) is Verdict.WAIT


def test_a_run_that_much_younger_ones_overtook_has_lost_its_message() -> None:
    run = make_run(RunState.WAITING, age=100)
    assert verdict(run, make_beat(run_id="x"), youngest_begun=NOON - seconds(10)) is Verdict.CLOSE_AND_RETRY
    assert verdict(run, make_beat(run_id="x"), youngest_begun=NOON - seconds(90)) is Verdict.WAIT


def test_a_claim_without_a_run_is_asked_for_again_once_its_tick_must_be_over() -> None:
    assert verdict(None, claim=make_claim(age=10)) is Verdict.WAIT
    assert verdict(None, claim=make_claim(age=61)) is Verdict.ASK_AGAIN


def test_a_job_that_its_batch_left_out_is_tried_again_at_once() -> None:
    assert verdict(make_run(RunState.SUCCEEDED)) is Verdict.RETRY


@pytest.mark.parametrize(("attempt", "ended", "expected"), [
    (1, 0, Verdict.RETRY), (2, 4, Verdict.WAIT), (2, 5, Verdict.RETRY), (3, 9, Verdict.WAIT), (3, 10, Verdict.RETRY),
])  # fmt: skip
def test_a_failed_attempt_is_followed_by_a_growing_pause(attempt: int, ended: float, expected: Verdict) -> None:
    run = make_run(RunState.FAILED, age=60, ended=ended)
    assert verdict(run, claim=make_claim(attempt)) is expected


def test_pauses_double() -> None:
    assert [retry_pause(attempt).total_seconds() for attempt in (1, 2, 3, 4)] == [0, 5, 10, 20]


def test_an_operators_cancel_is_final() -> None:
    assert verdict(make_run(RunState.CANCELLED)) is Verdict.CANCEL
    assert verdict(make_run(RunState.CANCELLING), make_beat(run_id="run-1")) is Verdict.WAIT
    assert verdict(make_run(RunState.CANCELLING)) is Verdict.CLOSE_AND_CANCEL
