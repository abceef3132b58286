"""What becomes of a job whose run was requested: the pure verdict of recovery.

A run can fail, vanish or never be launched. It can lose its worker, or its message in the broker.
Each case ends the same way: the run is closed, and a run of its own is requested for each of its
jobs. Who is to blame decides how often:

- The job is to blame if its own error ended the run. It is also to blame if it was alone in its run
  and was being decoded, segmented or encoded when the worker died. `Evidence` says so. Such an
  attempt counts. After `max_attempts` the job is given up.
- Nobody is to blame in every other case: a batch, a model that loads, the broker, the database, the
  store. The job is never given up for that. The pauses between its runs grow to a minute.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from seg_pipeline.domain import Lane
from seg_pipeline.jobs.backoff import doubling_pause
from seg_pipeline.jobs.claims import Claim
from seg_pipeline.jobs.evidence import Evidence
from seg_pipeline.jobs.heartbeats import WorkerHeartbeat

LAUNCH_GRACE = timedelta(seconds=20)
"""How long a tick may take from claiming a job to creating its run. A run that comes later than
that finds that its jobs are another's, and leaves them."""

BROKER_GRACE = timedelta(seconds=10)
"""How long an idle worker may leave a message in the broker."""

OVERTAKEN_GRACE = timedelta(seconds=60)
"""A run's message counts as lost if one that is younger by more than this began before it, and
does not go first by its lane."""

RETRY_SECONDS = 5.0
"""Pause before the third attempt of a job that is to blame; it doubles with each attempt."""

LOSS_SECONDS = 1.0
"""Pause after the second run that was lost through nobody's fault; it doubles with each."""

LONGEST_LOSS_SECONDS = 60.0


class RunState(StrEnum):
    """A run's state as far as recovery cares."""

    WAITING = "waiting"
    STARTED = "started"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class RunView:
    """What is known of a run; `ended_at` is None until it has ended."""

    run_id: str
    state: RunState
    created_at: datetime
    ended_at: datetime | None = None
    lane: Lane = Lane.SINGLE


class RecoveryVerdict(StrEnum):
    """What to do about a run that was requested."""

    WAIT = "wait"
    CLOSE = "close"  # the run is dead: report it failed, then judge it again
    CLOSE_AND_CANCEL = "close and cancel"
    ASK_AGAIN = "ask again"  # no run was made of the claim: request the same once more
    RETRY = "retry"  # another run; nobody is to blame for the last
    NEXT_ATTEMPT = "next attempt"  # another run; the job is to blame for the last
    GIVE_UP = "give up"  # the job was to blame for the last of its attempts
    CANCEL = "cancel"  # an operator said so: the job fails as cancelled


@dataclass(frozen=True)
class Surroundings:
    """What a run is judged by.

    These are the live workers' heartbeats, and the number of attempts that a job has.
    `youngest_begun` is when the youngest run of each lane was created that has begun.
    """

    now: datetime
    heartbeats: Collection[WorkerHeartbeat]
    youngest_begun: Mapping[Lane, datetime] = field(default_factory=dict)
    max_attempts: int = 3

    def runs_at_work(self) -> set[str]:
        """Runs that live workers name."""
        return {heartbeat.run_id for heartbeat in self.heartbeats if heartbeat.run_id}

    def lost_its_message(self, run: RunView) -> bool:
        """Whether a run that has not begun is no longer in the broker."""
        return self._an_idle_worker_passed_over(run) or self._was_overtaken(run)

    def _an_idle_worker_passed_over(self, run: RunView) -> bool:
        """Whether a worker was idle long enough to take the run, had it been in the broker."""
        idle_since = [
            heartbeat.idle_since
            for heartbeat in self.heartbeats
            if heartbeat.idle_since is not None
        ]
        return bool(idle_since) and self.now - max(min(idle_since), run.created_at) > BROKER_GRACE

    def _was_overtaken(self, run: RunView) -> bool:
        """Whether a run that was created well after this one has begun before it."""
        return any(
            created_at - run.created_at > OVERTAKEN_GRACE
            for lane, created_at in self.youngest_begun.items()
            if lane >= run.lane
        )


def judge(
    claim: Claim, run: RunView | None, around: Surroundings, evidence: Evidence | None = None
) -> RecoveryVerdict:
    """What to do about the run of a claim whose job has no result.

    `evidence` is the note on the job, if the job was alone in its run.
    """
    if run is None:
        return (
            RecoveryVerdict.WAIT
            if around.now - claim.claimed_at < LAUNCH_GRACE
            else RecoveryVerdict.ASK_AGAIN
        )
    match run.state:
        case RunState.CANCELLED:
            return RecoveryVerdict.CANCEL
        case RunState.SUCCEEDED | RunState.FAILED:
            return _judge_ended(claim, run, around, evidence)
        case _:
            return judge_in_progress(run, around)


def judge_in_progress(run: RunView, around: Surroundings) -> RecoveryVerdict:
    """What to do about a run that has not ended: WAIT, CLOSE or CLOSE_AND_CANCEL."""
    if run.state is RunState.WAITING:
        return RecoveryVerdict.CLOSE if around.lost_its_message(run) else RecoveryVerdict.WAIT
    if run.run_id in around.runs_at_work():
        return RecoveryVerdict.WAIT
    if run.state is RunState.CANCELLING:
        return RecoveryVerdict.CLOSE_AND_CANCEL
    return RecoveryVerdict.CLOSE


def is_to_blame(run: RunView, evidence: Evidence | None) -> bool:
    """Whether the job itself ended the run."""
    return evidence is not None and evidence.run_id == run.run_id


def _judge_ended(
    claim: Claim, run: RunView, around: Surroundings, evidence: Evidence | None
) -> RecoveryVerdict:
    to_blame = is_to_blame(run, evidence)
    if to_blame and claim.attempt >= around.max_attempts:
        return RecoveryVerdict.GIVE_UP
    pause = retry_pause(claim.attempt) if to_blame else loss_pause(claim.losses)
    if pause and around.now - (run.ended_at or run.created_at) < pause:
        return RecoveryVerdict.WAIT
    return RecoveryVerdict.NEXT_ATTEMPT if to_blame else RecoveryVerdict.RETRY


def retry_pause(attempt: int) -> timedelta:
    """How long to wait after an attempt that counted.

    There is no pause after the first attempt. Then it grows each time.
    """
    return timedelta(seconds=doubling_pause(attempt - 1, RETRY_SECONDS, math.inf))


def loss_pause(losses: int) -> timedelta:
    """How long to wait after a run that was lost through nobody's fault.

    `losses` counts the runs of the job that were lost so before. There is no pause after the first
    loss. Then it grows each time, up to a minute.
    """
    return timedelta(seconds=doubling_pause(losses, LOSS_SECONDS, LONGEST_LOSS_SECONDS))
