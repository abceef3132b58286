"""Recovery's verdict: every way for a run to die ends in another run, and nothing living is
touched."""

from datetime import timedelta
from typing import Any

import pytest

from seg_pipeline.domain import Lane
from seg_pipeline.jobs.claims import Claim
from seg_pipeline.jobs.evidence import Evidence
from seg_pipeline.jobs.heartbeats import WorkerHeartbeat
from seg_pipeline.jobs.recovery import (
    RecoveryVerdict,
    RunState,
    RunView,
    Surroundings,
    is_to_blame,
    judge,
    loss_pause,
    retry_pause,
)
from seg_pipeline_tests.builders import NOON

DECODING = Evidence("run-1", "source_image")


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def make_claim(attempt: int = 1, age: float = 0, losses: int = 0) -> Claim:
    return Claim("job-1", attempt, f"job-1:{attempt}", NOON - seconds(age), losses=losses)


def make_run(
    state: RunState, age: float = 30, ended: float | None = None, lane: Lane = Lane.SINGLE
) -> RunView:
    ended_at = None if ended is None else NOON - seconds(ended)
    return RunView("run-1", state, NOON - seconds(age), ended_at, lane)


def make_heartbeat(run_id: str | None = None, idle_for: float | None = None) -> WorkerHeartbeat:
    idle_since = None if idle_for is None else NOON - seconds(idle_for)
    return WorkerHeartbeat("worker-1", 1, "here", NOON, NOON, run_id=run_id, idle_since=idle_since)


def verdict(
    run: RunView | None,
    *heartbeats: WorkerHeartbeat,
    claim: Claim | None = None,
    evidence: Evidence | None = None,
    **around: Any,
) -> RecoveryVerdict:
    return judge(claim or make_claim(), run, Surroundings(NOON, heartbeats, **around), evidence)


def test_a_run_that_a_live_worker_names_is_left_alone() -> None:
    assert (
        verdict(make_run(RunState.STARTED), make_heartbeat(run_id="run-1")) is RecoveryVerdict.WAIT
    )


def test_a_started_run_that_no_worker_names_has_lost_its_worker() -> None:
    assert (
        verdict(make_run(RunState.STARTED), make_heartbeat(run_id="another"))
        is RecoveryVerdict.CLOSE
    )
    assert verdict(make_run(RunState.STARTED)) is RecoveryVerdict.CLOSE


def test_a_run_may_wait_in_the_broker_for_as_long_as_every_worker_is_busy() -> None:
    assert (
        verdict(make_run(RunState.WAITING, age=10_000), make_heartbeat(run_id="another"))
        is RecoveryVerdict.WAIT
    )


def test_a_run_may_wait_while_there_is_no_worker_at_all() -> None:
    assert verdict(make_run(RunState.WAITING, age=10_000)) is RecoveryVerdict.WAIT


def test_a_run_that_an_idle_worker_does_not_take_has_lost_its_message() -> None:
    assert (
        verdict(make_run(RunState.WAITING, age=30), make_heartbeat(idle_for=30))
        is RecoveryVerdict.CLOSE
    )


def test_a_worker_that_has_only_just_become_idle_may_still_take_the_run() -> None:
    assert (
        verdict(make_run(RunState.WAITING, age=300), make_heartbeat(idle_for=2))
        is RecoveryVerdict.WAIT
    )
    assert (
        verdict(make_run(RunState.WAITING, age=2), make_heartbeat(idle_for=300))
        is RecoveryVerdict.WAIT
    )


def test_a_run_that_much_younger_ones_overtook_has_lost_its_message() -> None:
    run = make_run(RunState.WAITING, age=100)
    assert (
        verdict(run, make_heartbeat(run_id="x"), youngest_begun={Lane.SINGLE: NOON - seconds(10)})
        is RecoveryVerdict.CLOSE
    )
    assert (
        verdict(run, make_heartbeat(run_id="x"), youngest_begun={Lane.SINGLE: NOON - seconds(90)})
        is RecoveryVerdict.WAIT
    )


def test_runs_of_earlier_lanes_may_overtake_a_run() -> None:
    """Under a stream of uploads a batch's run waits for long, and its message is not lost."""
    run = make_run(RunState.WAITING, age=100, lane=Lane.BATCH)
    beat, soon = make_heartbeat(run_id="x"), NOON - seconds(10)
    assert verdict(run, beat, youngest_begun={Lane.SINGLE: soon}) is RecoveryVerdict.WAIT
    assert verdict(run, beat, youngest_begun={Lane.BATCH: soon}) is RecoveryVerdict.CLOSE
    single = make_run(RunState.WAITING, age=100)
    assert verdict(single, beat, youngest_begun={Lane.BATCH: soon}) is RecoveryVerdict.CLOSE


def test_a_claim_without_a_run_is_asked_for_again_once_its_tick_must_be_over() -> None:
    assert verdict(None, claim=make_claim(age=10)) is RecoveryVerdict.WAIT
    assert verdict(None, claim=make_claim(age=61)) is RecoveryVerdict.ASK_AGAIN


def test_a_job_that_its_batch_left_out_is_tried_again_at_once() -> None:
    assert verdict(make_run(RunState.SUCCEEDED)) is RecoveryVerdict.RETRY


@pytest.mark.parametrize(
    ("evidence", "to_blame"),
    [
        (None, False),  # a batch, a model that loads, the time between two stages
        (Evidence("run-1", "source_image"), True),  # decoded, and alone
        (Evidence("run-1", "segments"), True),
        (Evidence("run-1", "failed", "fetch_unavailable"), True),  # its own error
        (Evidence("run-0", "segments"), False),  # what an earlier run left
    ],
)
def test_a_job_is_to_blame_for_a_run_that_left_evidence_alone(
    evidence: Evidence | None, to_blame: bool
) -> None:
    assert is_to_blame(make_run(RunState.FAILED), evidence) is to_blame


@pytest.mark.parametrize(("attempt", "ended", "expected"), [
    (1, 0, RecoveryVerdict.NEXT_ATTEMPT), (2, 4, RecoveryVerdict.WAIT),
    (2, 5, RecoveryVerdict.NEXT_ATTEMPT),
    (3, 9, RecoveryVerdict.WAIT),
    (3, 10, RecoveryVerdict.NEXT_ATTEMPT), (4, 0, RecoveryVerdict.GIVE_UP),
    (5, 0, RecoveryVerdict.GIVE_UP),
])  # fmt: skip
def test_attempts_that_a_job_is_to_blame_for_are_counted(
    attempt: int, ended: float, expected: RecoveryVerdict
) -> None:
    """A growing pause lies between them, and the last is the end."""
    run = make_run(RunState.FAILED, age=60, ended=ended)
    assert verdict(run, claim=make_claim(attempt), evidence=DECODING, max_attempts=4) is expected


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.SUCCEEDED])
@pytest.mark.parametrize(("losses", "ended", "expected"), [
    (0, 0, RecoveryVerdict.RETRY), (1, 0.5, RecoveryVerdict.WAIT), (1, 1, RecoveryVerdict.RETRY),
    (3, 3, RecoveryVerdict.WAIT),
    (3, 4, RecoveryVerdict.RETRY),
    (100, 59, RecoveryVerdict.WAIT), (100, 60, RecoveryVerdict.RETRY),
    (10**9, 60, RecoveryVerdict.RETRY),
])  # fmt: skip
def test_a_job_is_never_given_up_for_what_it_is_not_to_blame_for(
    state: RunState, losses: int, ended: float, expected: RecoveryVerdict
) -> None:
    """Redis, Postgres, a killed batch: however often. So that nothing spins, the pauses grow to a
    minute."""
    run = make_run(state, age=100, ended=ended)
    assert verdict(run, claim=make_claim(3, losses=losses), max_attempts=3) is expected


def test_pauses_double() -> None:
    assert [retry_pause(attempt).total_seconds() for attempt in (1, 2, 3, 4)] == [0, 5, 10, 20]
    assert [loss_pause(losses).total_seconds() for losses in (0, 1, 2, 3, 6, 7, 8)] == [
        0,
        1,
        2,
        4,
        32,
        60,
        60,
    ]


def test_an_operators_cancel_is_final() -> None:
    assert verdict(make_run(RunState.CANCELLED)) is RecoveryVerdict.CANCEL
    assert (
        verdict(make_run(RunState.CANCELLING), make_heartbeat(run_id="run-1"))
        is RecoveryVerdict.WAIT
    )
    assert verdict(make_run(RunState.CANCELLING)) is RecoveryVerdict.CLOSE_AND_CANCEL
