"""Recovery of lost jobs: reads the runs, has each judged (`jobs.recovery`), and acts on it."""

import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster import DagsterRunStatus, RunRecord, RunsFilter

from seg_pipeline.defs.jobs import segment_images
from seg_pipeline.defs.run_config import RUN_KEY_TAG
from seg_pipeline.defs.run_tags import lane_of_run
from seg_pipeline.domain import Lane
from seg_pipeline.errors import JobCancelled, SegPipelineError, WorkerLost
from seg_pipeline.jobs.claims import Claim
from seg_pipeline.jobs.evidence import read_evidence
from seg_pipeline.jobs.heartbeats import Heartbeat, all_upkeep, died_here, live_workers
from seg_pipeline.jobs.recovery import (
    RecoveryVerdict,
    RunState,
    RunView,
    Surroundings,
    judge,
    judge_in_progress,
)
from seg_pipeline.pipeline.stages import StageContext, fail_job
from seg_pipeline.runtime.upkeep import UPKEEP_TAG
from seg_pipeline.telemetry import metrics
from seg_pipeline.telemetry.logs import about

logger = logging.getLogger(__name__)

RETRIES_PER_TICK = 64
UPKEEP_GRACE = timedelta(minutes=1)
"""How long a process of upkeep may take to start, and be silent."""

UPKEEP_LONGEST = timedelta(hours=1)
"""A run that has begun may never have had a heartbeat: `dagster job execute` makes none."""

BEGUN_RUNS = 8
"""So many of the last runs that began are looked at for one that overtook another."""

_STATES = {
    DagsterRunStatus.NOT_STARTED: RunState.WAITING,
    DagsterRunStatus.QUEUED: RunState.WAITING,
    DagsterRunStatus.STARTING: RunState.WAITING,
    DagsterRunStatus.MANAGED: RunState.WAITING,
    DagsterRunStatus.STARTED: RunState.STARTED,
    DagsterRunStatus.CANCELING: RunState.CANCELLING,
    DagsterRunStatus.SUCCESS: RunState.SUCCEEDED,
    DagsterRunStatus.FAILURE: RunState.FAILED,
    DagsterRunStatus.CANCELED: RunState.CANCELLED,
}
_IN_PROGRESS = [
    status
    for status, state in _STATES.items()
    if state in (RunState.WAITING, RunState.STARTED, RunState.CANCELLING)
]
_ASKED_AGAIN = "its jobs are asked for again."
_ENDED_WITHOUT_IT = "its jobs have ended without it."
_WORKER_LOST = "worker_lost", "The worker that executed this run was lost"
_NOT_TAKEN = "not_taken", "No worker took this run, though one was free"
"""Why a run is closed: the metric's cause, and a sentence."""


@dataclass
class RecoveryReport:
    """What recovery saw and did."""

    under_way: int = 0
    settled: int = 0
    failed: int = 0
    retries: list[Claim] = field(default_factory=list)

    def summary(self) -> str:
        """One sentence for the tick."""
        return (
            f"{self.under_way} jobs under way; {self.settled} settled, {self.failed} failed, none"
            " to ask for again."
        )


def recover(
    stage_context: StageContext, instance: dg.DagsterInstance, now: datetime
) -> RecoveryReport:
    """Judges every job in flight, closes dead runs, and claims lost jobs again."""
    claims = _claims_of_runs(stage_context)
    by_run_key: dict[str, list[Claim]] = defaultdict(list)
    for claim in claims:
        by_run_key[claim.run_key].append(claim)
    in_progress = instance.get_run_records(RunsFilter(statuses=_IN_PROGRESS), limit=2000)
    if not claims and not in_progress:
        return RecoveryReport()
    runs = _runs_by_key(instance, by_run_key, in_progress)
    around = _surroundings(
        stage_context, instance, now
    )  # after the runs: a run is named in a heartbeat before it starts
    report = RecoveryReport(under_way=len(claims))
    for run_key, group in by_run_key.items():
        verdict = _verdict(stage_context, instance, group, runs.get(run_key), around)
        if verdict is not RecoveryVerdict.WAIT:
            for claim in group:
                with about(claim.uuid):
                    _carry_out(verdict, claim, stage_context, report, now)
    _close_dead_runs(
        instance, [each for each in in_progress if _is_unclaimed(each, by_run_key)], around
    )
    _close_dead_upkeep(
        stage_context, instance, [each for each in in_progress if _is_upkeep(each)], now
    )
    return report


def _claims_of_runs(stage_context: StageContext) -> list[Claim]:
    """The jobs in flight, without those that were given back: these wait again."""
    claims = stage_context.repository.claims
    under_way = claims.inflight()
    for claim in under_way:
        if claim.is_given_back:
            claims.complete(claim)
    return [claim for claim in under_way if not claim.is_given_back]


def _is_unclaimed(record: RunRecord, run_keys: Collection[str]) -> bool:
    """Whether no job in flight requested this run over pictures.

    Its jobs have ended, or an operator launched it.
    """
    run = record.dagster_run
    return run.job_name == segment_images.name and run.tags.get(RUN_KEY_TAG) not in run_keys


def _close_dead_runs(
    instance: dg.DagsterInstance, records: Sequence[RunRecord], around: Surroundings
) -> None:
    """Closes dead runs that no job waits for.

    Left open, each would count as a worker's work for ever.
    """
    for record in records:
        view = _view(record)
        verdict = judge_in_progress(view, around)
        if verdict is not RecoveryVerdict.WAIT:
            _close(instance, view, _ENDED_WITHOUT_IT)


def _is_upkeep(record: RunRecord) -> bool:
    return UPKEEP_TAG in record.dagster_run.tags


def _close_dead_upkeep(
    stage_context: StageContext,
    instance: dg.DagsterInstance,
    records: Sequence[RunRecord],
    now: datetime,
) -> None:
    """Closes runs of upkeep whose process died, or never began.

    The next one of its schedule does the work. Left open, it would be "in progress" for ever.
    """
    if not records:
        return
    beats = {each.name: each for each in all_upkeep(stage_context.store)}
    for view in map(_view, records):
        if _is_dead(view, beats.get(view.run_id), now):
            sentence = "The process that executed this run was lost."
            _end(instance, view, "process", "process_lost", sentence)


def _is_dead(run: RunView, beat: Heartbeat | None, now: datetime) -> bool:
    if beat:
        return died_here(beat) or now - max(beat.beat_at, run.created_at) > UPKEEP_GRACE
    has_begun = run.state is RunState.STARTED
    return now - run.created_at > (UPKEEP_LONGEST if has_begun else UPKEEP_GRACE)


def _verdict(
    stage_context: StageContext,
    instance: dg.DagsterInstance,
    group: list[Claim],
    run: RunView | None,
    around: Surroundings,
) -> RecoveryVerdict:
    """The verdict on the jobs of a run. A dead run is closed first.

    WAIT if the run changed since it was read.
    """
    evidence = (
        read_evidence(stage_context.store, group[0].uuid) if run and len(group) == 1 else None
    )
    verdict = judge(group[0], run, around, evidence)
    if run is None or verdict not in (RecoveryVerdict.CLOSE, RecoveryVerdict.CLOSE_AND_CANCEL):
        return verdict
    if not _close(instance, run, _ASKED_AGAIN):
        return RecoveryVerdict.WAIT
    if verdict is RecoveryVerdict.CLOSE_AND_CANCEL:
        return RecoveryVerdict.CANCEL
    return judge(
        group[0], replace(run, state=RunState.FAILED, ended_at=around.now), around, evidence
    )


def _carry_out(
    verdict: RecoveryVerdict,
    claim: Claim,
    stage_context: StageContext,
    report: RecoveryReport,
    now: datetime,
) -> None:
    if stage_context.repository.results.settle(claim.uuid):
        report.settled += 1
    elif verdict is RecoveryVerdict.CANCEL:
        _fail(stage_context, claim, JobCancelled(claim.uuid), report)
    elif verdict is RecoveryVerdict.GIVE_UP:
        _fail(stage_context, claim, WorkerLost(claim.uuid, claim.attempt), report)
    else:
        _ask_again(stage_context, _next_claim(verdict, claim, now), report)


def _next_claim(verdict: RecoveryVerdict, claim: Claim, now: datetime) -> Claim:
    """The claim for a run of the job alone.

    It keeps its run key if the job was already to run alone and no run was made of that key.
    """
    if verdict is RecoveryVerdict.NEXT_ATTEMPT:
        return claim.next_attempt(now)
    if verdict is RecoveryVerdict.ASK_AGAIN and claim.batch == 1 and claim.run_key:
        return replace(claim, claimed_at=now)
    return claim.after_loss(now)


def _ask_again(stage_context: StageContext, claim: Claim, report: RecoveryReport) -> None:
    """Claims the job. Beyond the limit of a tick, it waits for the next one."""
    if len(report.retries) >= RETRIES_PER_TICK:
        return
    if stage_context.repository.claims.reclaim(claim):
        report.retries.append(claim)
    else:
        report.settled += 1


def _fail(
    stage_context: StageContext, claim: Claim, error: SegPipelineError, report: RecoveryReport
) -> None:
    logger.warning("job %s: %s", claim.uuid, error)
    fail_job(stage_context.repository, claim.uuid, error)
    report.failed += 1


def _close(instance: dg.DagsterInstance, view: RunView, and_its_jobs: str) -> bool:
    """Ends a dead run of a worker. Returns whether it did."""
    cause, sentence = _WORKER_LOST if view.state is RunState.STARTED else _NOT_TAKEN
    return _end(instance, view, "worker", cause, f"{sentence}; {and_its_jobs}")


def _end(
    instance: dg.DagsterInstance, view: RunView, executor: str, cause: str, sentence: str
) -> bool:
    """Ends a run whose `executor` was lost, unless it changed since it was read.

    A run that was being cancelled is cancelled, the others fail and are counted.
    """
    run = instance.get_run_by_id(view.run_id)
    if run is None or _STATES[run.status] != view.state:
        return False
    if view.state is RunState.CANCELLING:
        instance.report_run_canceled(run, f"Cancelled; its {executor} was lost.")
    else:
        instance.report_run_failed(run, sentence)
        metrics.RUNS_LOST.labels(cause).inc()
    return True


def _runs_by_key(
    instance: dg.DagsterInstance, run_keys: Collection[str], in_progress: Sequence[RunRecord]
) -> dict[str, RunView]:
    """The runs that the claims requested. Each one not in progress takes a query of its own."""
    found = {
        key: record
        for record in in_progress
        if (key := record.dagster_run.tags.get(RUN_KEY_TAG)) and key in run_keys
    }
    for run_key in filter(None, set(run_keys) - found.keys()):
        if newest := instance.get_run_records(RunsFilter(tags={RUN_KEY_TAG: run_key}), limit=1):
            found[run_key] = newest[0]
    return {run_key: _view(record) for run_key, record in found.items()}


def _surroundings(
    stage_context: StageContext, instance: dg.DagsterInstance, now: datetime
) -> Surroundings:
    return Surroundings(
        now=now,
        heartbeats=live_workers(
            stage_context.store, now, stage_context.settings.worker_stale_seconds
        ),
        youngest_begun=_youngest_begun(instance),
        max_attempts=stage_context.settings.max_attempts,
    )


def _youngest_begun(instance: dg.DagsterInstance) -> dict[Lane, datetime]:
    """When the youngest run of each lane was created that has begun, of the last few."""
    begun = [DagsterRunStatus.STARTED, DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE]
    youngest = instance.get_run_records(RunsFilter(statuses=begun), limit=BEGUN_RUNS)
    return {
        lane_of_run(record.dagster_run.tags): _utc(record.create_timestamp)
        for record in reversed(youngest)
    }


def _view(record: RunRecord) -> RunView:
    ended_at = datetime.fromtimestamp(record.end_time, UTC) if record.end_time else None
    run = record.dagster_run
    created_at, lane = _utc(record.create_timestamp), lane_of_run(run.tags)
    return RunView(run.run_id, _STATES[run.status], created_at, ended_at, lane)


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
