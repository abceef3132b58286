"""What becomes of a job that was asked for: pure judgement for the sweeper, the net under everything.

A run can fail, vanish, never be launched, lose its message in the broker or its worker. Each ends the same way: the
run is closed and the job asked for again, alone, until its attempts are used up.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from seg_pipeline.jobs.heartbeats import WorkerBeat
from seg_pipeline.jobs.repository import Claim

LAUNCH_GRACE = timedelta(seconds=60)
"""How long a tick may take from claiming a job to creating its run."""

BROKER_GRACE = timedelta(seconds=10)
"""How long an idle worker may leave a message in the broker."""

OVERTAKEN_GRACE = timedelta(seconds=60)
"""How much younger a run must be that began before this one, for this one's message to count as lost."""

RETRY_PAUSE = timedelta(seconds=5)
"""Pause before the second attempt of a failed job; it doubles with each."""


class RunState(StrEnum):
    """A run's state as far as the sweeper cares."""

    WAITING = "waiting"
    STARTED = "started"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class RunView:
    """What is known of a run. `ended_at` is None until it has ended."""

    run_id: str
    state: RunState
    created_at: datetime
    ended_at: datetime | None = None


class Verdict(StrEnum):
    """What to do about a run that was asked for."""

    WAIT = "wait"
    ASK_AGAIN = "ask again"  # no run was made of it: the same attempt once more
    RETRY = "retry"  # the next attempt
    CLOSE_AND_RETRY = "close and retry"  # the run is dead: report it failed, then ask again
    CANCEL = "cancel"  # an operator said so: the job fails as cancelled
    CLOSE_AND_CANCEL = "close and cancel"


@dataclass(frozen=True)
class Surroundings:
    """What a run is judged by: the live workers' beats, and when the youngest run that began was created."""

    now: datetime
    beats: Collection[WorkerBeat]
    youngest_begun: datetime | None = None

    def runs_at_work(self) -> set[str]:
        """Runs that live workers name."""
        return {beat.run_id for beat in self.beats if beat.run_id}

    def lost_its_message(self, run: RunView) -> bool:
        """Whether a run that nobody has begun is no longer in the broker either."""
        return self._an_idle_worker_passed_over(run) or self._was_overtaken(run)

    def _an_idle_worker_passed_over(self, run: RunView) -> bool:
        """Whether a worker has been idle for long enough to have taken the run, were it still in the broker."""
        idle_since = [beat.idle_since for beat in self.beats if beat.idle_since is not None]
        return bool(idle_since) and self.now - max(min(idle_since), run.created_at) > BROKER_GRACE

    def _was_overtaken(self, run: RunView) -> bool:
        """Whether a run that was created well after this one has begun before it."""
        return self.youngest_begun is not None and self.youngest_begun - run.created_at > OVERTAKEN_GRACE


_BY_STATE = {RunState.SUCCEEDED: Verdict.RETRY, RunState.CANCELLED: Verdict.CANCEL}


def judge(claim: Claim, run: RunView | None, around: Surroundings) -> Verdict:
    """What to do about the run that a claim asked for, given that the job has no result."""
    if run is None:
        return Verdict.WAIT if around.now - claim.claimed_at < LAUNCH_GRACE else Verdict.ASK_AGAIN
    if run.state is RunState.WAITING:
        return Verdict.CLOSE_AND_RETRY if around.lost_its_message(run) else Verdict.WAIT
    if run.state in (RunState.STARTED, RunState.CANCELLING):
        return Verdict.WAIT if run.run_id in around.runs_at_work() else _close_verdict(run)
    if run.state is RunState.FAILED:
        rested = around.now - (run.ended_at or run.created_at) >= retry_pause(claim.attempt)
        return Verdict.RETRY if rested else Verdict.WAIT
    return _BY_STATE[run.state]


def _close_verdict(run: RunView) -> Verdict:
    return Verdict.CLOSE_AND_RETRY if run.state is RunState.STARTED else Verdict.CLOSE_AND_CANCEL


def retry_pause(attempt: int) -> timedelta:
    """How long to wait after an attempt failed: none after the first, which may have been a batch's, then doubling."""
    return RETRY_PAUSE * (2 ** (attempt - 2)) if attempt > 1 else timedelta(0)
