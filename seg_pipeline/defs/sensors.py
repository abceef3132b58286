"""The sensors that turn waiting jobs into runs, and lost jobs into new runs."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import dagster as dg

from seg_pipeline.defs.batching import (
    RUNS_PER_WORKER,
    FailedRunPace,
    RunUnderWay,
    room_for_runs,
    runs_to_give_way,
    size_for_batches,
    split_into_batches,
)
from seg_pipeline.defs.jobs import segment_images
from seg_pipeline.defs.partitions import RANGE_END_TAG, RANGE_START_TAG, job_partitions
from seg_pipeline.defs.recovery import RecoveryReport, recover
from seg_pipeline.defs.run_config import RUN_KEY_TAG, run_config_for
from seg_pipeline.defs.run_tags import lane_of_run, tags_of_run
from seg_pipeline.domain import Lane, batch_of
from seg_pipeline.errors import StoreUnavailable
from seg_pipeline.jobs.claims import Claim, Waiting, new_run_key
from seg_pipeline.jobs.drain import read_drain
from seg_pipeline.jobs.giving_way import ask_to_give_way
from seg_pipeline.jobs.heartbeats import live_workers
from seg_pipeline.pipeline.stages import StageContext

JOBS_PER_TICK = 512
SWEEP_SECONDS = 2.0
STORE_PAUSE_SECONDS = 1.0
DRAIN_PAUSE_SECONDS = 2.0
ROOM_PAUSE_SECONDS = 0.1
FAILED_RUN_PACE = FailedRunPace()
HEARTBEATS_MISSED = 2
"""So many heartbeat intervals recovery waits after the store was unavailable.

No worker could write a heartbeat, and each would look dead.
"""
UPKEEP_RUNS = 8
"""How many runs of other jobs may be in progress beside ours."""

IN_PROGRESS = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


@dg.sensor(
    job=segment_images,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Waits for accepted jobs and asks for a run, of one job when it is quiet and of many under"
        " load."
    ),
)
def inbox_sensor(
    context: dg.SensorEvaluationContext, stage_context: dg.ResourceParam[StageContext]
) -> dg.SensorResult | dg.SkipReason:
    """One tick: wait for jobs, claim them, request runs."""
    try:
        return _ask_for_runs(stage_context, context.instance)
    except StoreUnavailable as error:
        time.sleep(min(STORE_PAUSE_SECONDS, stage_context.settings.tick_seconds))
        return dg.SkipReason(f"The store is unavailable, and nothing is lost: {error}")


def _ask_for_runs(
    stage_context: StageContext, instance: dg.DagsterInstance
) -> dg.SensorResult | dg.SkipReason:
    if drain := read_drain(stage_context.store, datetime.now(UTC)):
        time.sleep(min(DRAIN_PAUSE_SECONDS, stage_context.settings.tick_seconds))
        return dg.SkipReason(
            f"Drained by the job `drain`: waiting jobs get runs from {drain.until:%H:%M} UTC on."
        )
    chosen = _wait_for_runs(stage_context, instance)
    if not chosen:
        return dg.SkipReason(
            f"No job to ask for in the {stage_context.settings.tick_seconds:g} s of this tick."
        )
    claimed = [(claims, run.lane) for run in chosen if (claims := _claim(stage_context, run.uuids))]
    if not claimed:
        markers = sum(len(run.uuids) for run in chosen)
        return dg.SkipReason(
            f"The {markers} markers listed belong to jobs that are finished or under way."
        )
    uuids = [claim.uuid for claims, _ in claimed for claim in claims]
    return dg.SensorResult(
        run_requests=[request_run(claims, lane) for claims, lane in claimed],
        dynamic_partitions_requests=[job_partitions.build_add_request(uuids)],
    )


class ChosenRun(NamedTuple):
    """Waiting jobs that are to share a run."""

    lane: Lane
    uuids: list[str]


def _wait_for_runs(stage_context: StageContext, instance: dg.DagsterInstance) -> list[ChosenRun]:
    """The jobs to claim now, by run; none if none came within the tick, or no worker has room.

    Runs that execute are asked to give way to those that they hold up.
    """
    settings, deadline = (
        stage_context.settings,
        time.monotonic() + stage_context.settings.tick_seconds,
    )
    while time.monotonic() < deadline:
        begin, pause = time.monotonic(), settings.inbox_pause_seconds
        if _has_work(stage_context):
            if read_drain(stage_context.store, datetime.now(UTC)):
                return []
            if chosen := _choose(stage_context, instance):
                return chosen
            pause = max(pause, ROOM_PAUSE_SECONDS, time.monotonic() - begin)
        time.sleep(pause)
    return []


def _has_work(stage_context: StageContext) -> bool:
    waiting = stage_context.repository.claims.waiting(1)
    return bool(waiting.ready or (waiting.failed and FAILED_RUN_PACE.allows(time.monotonic())))


def _choose(stage_context: StageContext, instance: dg.DagsterInstance) -> list[ChosenRun]:
    workers = _working(stage_context)
    under_way = _runs_under_way(instance, workers)
    chosen = _runs(stage_context, under_way, workers)
    held_up = runs_to_give_way([run.lane for run in chosen], under_way, workers)
    ask_to_give_way(stage_context.store, held_up, [run.run_id for run in under_way])
    return chosen


def _working(stage_context: StageContext) -> int:
    """How many workers can take runs."""
    stale_seconds = stage_context.settings.worker_stale_seconds
    heartbeats = live_workers(stage_context.store, datetime.now(UTC), stale_seconds)
    return sum(heartbeat.problem is None for heartbeat in heartbeats)


def _runs(
    stage_context: StageContext, under_way: Sequence[RunUnderWay], workers: int
) -> list[ChosenRun]:
    """Jobs whose picture is there, many in a run, and those whose fetch failed alone.

    A failed fetch fails its run, which should delay no other job.
    """
    waiting = stage_context.repository.claims.waiting(JOBS_PER_TICK)
    chosen = _split(stage_context, waiting, under_way, workers)
    now, room = time.monotonic(), _room(Lane.BATCH, under_way, [], workers)
    if waiting.ready:
        FAILED_RUN_PACE.note_ready(now)
    if not (waiting.failed and room and FAILED_RUN_PACE.allows(now)):
        return chosen
    FAILED_RUN_PACE.note_asked(now)
    failed = waiting.failed[: min(room, max(1, workers))]
    return [*chosen, *(ChosenRun(Lane.BATCH, [uuid]) for uuid in failed)]


def _split(
    stage_context: StageContext,
    waiting: Waiting,
    under_way: Sequence[RunUnderWay],
    workers: int,
) -> list[ChosenRun]:
    """The first jobs of each lane in runs, as many as there is room for."""
    chosen: list[ChosenRun] = []
    for lane in Lane:
        ready, room = waiting.ready_in(lane), _room(lane, under_way, chosen, workers)
        size = _run_size(stage_context, lane, ready)
        runs = split_into_batches(ready[: room * size], workers, size, len(ready))
        chosen += [ChosenRun(lane, uuids) for uuids in runs[:room]]
    return chosen


def _room(
    lane: Lane, under_way: Sequence[RunUnderWay], chosen: Sequence[ChosenRun], workers: int
) -> int:
    """How many more runs of this lane to request: those of later lanes take no room from it."""
    lanes = [run.lane for run in under_way] + [run.lane for run in chosen]
    return room_for_runs(sum(each <= lane for each in lanes), workers)


def _run_size(stage_context: StageContext, lane: Lane, ready: Sequence[str]) -> int:
    batch_size = stage_context.settings.batch_size
    if lane is not Lane.BATCH or not ready:
        return batch_size
    seconds = stage_context.repository.batches.picture_seconds(batch_of(ready[0]) or "")
    return size_for_batches(seconds, batch_size)


def _runs_under_way(instance: dg.DagsterInstance, workers: int) -> list[RunUnderWay]:
    """The runs under way over pictures, counted up to what leaves no room.

    The query leaves the job's name out: by that index, SQLite would read every run of the job.
    """
    enough = len(Lane) * RUNS_PER_WORKER * max(workers, 1) + UPKEEP_RUNS
    runs = instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS), limit=enough)
    return [
        RunUnderWay(
            run.run_id,
            lane_of_run(run.tags),
            run.status is dg.DagsterRunStatus.STARTED,
            run.parent_run_id is None and RUN_KEY_TAG in run.tags,
        )
        for run in runs
        if run.job_name == segment_images.name
    ]


def _claim(stage_context: StageContext, uuids: list[str]) -> list[Claim]:
    return stage_context.repository.claims.claim(
        uuids, run_key=new_run_key(uuids[0], 1, datetime.now(UTC))
    )


def request_run(claims: list[Claim], lane: Lane) -> dg.RunRequest:
    """A run over the claimed jobs: one partition, or the range that this tick registers."""
    uuids, run_key = [claim.uuid for claim in claims], claims[0].run_key
    tags = tags_of_run(claims, lane)
    run_config = run_config_for(uuids)
    if len(uuids) == 1:
        return dg.RunRequest(run_key, run_config, tags=tags, partition_key=uuids[0])
    a_range = {RANGE_START_TAG: uuids[0], RANGE_END_TAG: uuids[-1]}
    return dg.RunRequest(run_key, run_config, tags={**tags, **a_range})


@dg.sensor(
    job=segment_images,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Compares jobs under way with runs and workers; what got lost is asked for again, alone."
    ),
)
def sweeper(
    context: dg.SensorEvaluationContext, stage_context: dg.ResourceParam[StageContext]
) -> dg.SensorResult | dg.SkipReason:
    """One tick: complete retries, list the jobs in flight, judge them, request runs for lost ones.

    It looks several times, since each tick is a row in the database.
    """
    try:
        stage_context.repository.retries.complete()
        report = _recover_until_something_is_lost(stage_context, context.instance)
    except StoreUnavailable as error:
        time.sleep(HEARTBEATS_MISSED * stage_context.settings.heartbeat_seconds)
        return dg.SkipReason(f"The store is unavailable, so the workers' state is unknown: {error}")
    if not report.retries:
        return dg.SkipReason(report.summary())
    uuids = [claim.uuid for claim in report.retries]
    known = context.instance.get_existing_dynamic_partitions("jobs", uuids)
    unknown = [uuid for uuid in uuids if uuid not in known]
    return dg.SensorResult(
        run_requests=[request_run([claim], claim.lane) for claim in report.retries],
        dynamic_partitions_requests=[job_partitions.build_add_request(unknown)] if unknown else [],
    )


def _recover_until_something_is_lost(
    stage_context: StageContext, instance: dg.DagsterInstance
) -> RecoveryReport:
    deadline = time.monotonic() + stage_context.settings.tick_seconds
    while (
        not (report := recover(stage_context, instance, datetime.now(UTC))).retries
        and time.monotonic() < deadline
    ):
        time.sleep(min(SWEEP_SECONDS, stage_context.settings.tick_seconds))
    return report
