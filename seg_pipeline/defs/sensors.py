"""The sensors that turn waiting jobs into runs, and lost jobs into new runs."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg

from seg_pipeline.defs.batching import (
    RUNS_PER_WORKER,
    FailedRunPace,
    room_for_runs,
    size_for_batches,
    split_into_batches,
)
from seg_pipeline.defs.jobs import segment_images
from seg_pipeline.defs.partitions import RANGE_END_TAG, RANGE_START_TAG, job_partitions
from seg_pipeline.defs.recovery import RecoveryReport, recover
from seg_pipeline.defs.run_config import run_config_for
from seg_pipeline.defs.run_tags import tags_of_run
from seg_pipeline.domain import batch_of
from seg_pipeline.errors import StoreUnavailable
from seg_pipeline.jobs.claims import Claim, new_run_key
from seg_pipeline.jobs.drain import read_drain
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
    batches = _wait_for_batches(stage_context, instance)
    if not batches:
        return dg.SkipReason(
            f"No job to ask for in the {stage_context.settings.tick_seconds:g} s of this tick."
        )
    claimed = [claims for batch in batches if (claims := _claim(stage_context, batch))]
    if not claimed:
        markers = sum(map(len, batches))
        return dg.SkipReason(
            f"The {markers} markers listed belong to jobs that are finished or under way."
        )
    uuids = [claim.uuid for claims in claimed for claim in claims]
    return dg.SensorResult(
        run_requests=[request_run(claims) for claims in claimed],
        dynamic_partitions_requests=[job_partitions.build_add_request(uuids)],
    )


def _wait_for_batches(stage_context: StageContext, instance: dg.DagsterInstance) -> list[list[str]]:
    """The jobs to claim now, by run, oldest first; none if none came within the tick."""
    settings, deadline = (
        stage_context.settings,
        time.monotonic() + stage_context.settings.tick_seconds,
    )
    while time.monotonic() < deadline:
        if _has_work(stage_context):
            if read_drain(stage_context.store, datetime.now(UTC)):
                return []
            heartbeats = live_workers(
                stage_context.store, datetime.now(UTC), settings.worker_stale_seconds
            )
            workers = sum(heartbeat.problem is None for heartbeat in heartbeats)
            room = room_for_runs(_runs_in_progress(instance, workers), workers)
            if not room:
                room = _wait_for_room(instance, workers, deadline)
            return _batches(stage_context, room, workers)
        time.sleep(settings.inbox_pause_seconds)
    return []


def _has_work(stage_context: StageContext) -> bool:
    ready, failed = stage_context.repository.claims.waiting_by_picture(1)
    return bool(ready or (failed and FAILED_RUN_PACE.allows(time.monotonic())))


def _batches(stage_context: StageContext, room: int, workers: int) -> list[list[str]]:
    """Jobs whose picture is there in batches, and those whose fetch failed alone.

    A failed fetch fails its run, which should delay no other job.
    """
    ready, failed = stage_context.repository.claims.waiting_by_picture(JOBS_PER_TICK)
    batches = _split(stage_context, ready, room, workers)
    now = time.monotonic()
    if ready:
        FAILED_RUN_PACE.note_ready(now)
    if not (failed and room and FAILED_RUN_PACE.allows(now)):
        return batches
    FAILED_RUN_PACE.note_asked(now)
    return batches + [[uuid] for uuid in failed[: min(room, max(1, workers))]]


def _split(
    stage_context: StageContext, ready: Sequence[str], room: int, workers: int
) -> list[list[str]]:
    """The first jobs in runs; a job of its own waits for none that is part of a client's batch."""
    batch_size = stage_context.settings.batch_size
    chosen = ready[: room * batch_size]
    lone = [uuid for uuid in chosen if batch_of(uuid) is None]
    others = [uuid for uuid in chosen if batch_of(uuid) is not None]
    runs = split_into_batches(lone, workers, batch_size, len(ready))
    if others:
        seconds = stage_context.repository.batches.picture_seconds(batch_of(others[0]) or "")
        size = size_for_batches(seconds, batch_size)
        runs += split_into_batches(others, workers, size, len(ready))
    return runs[:room]


def _wait_for_room(instance: dg.DagsterInstance, workers: int, deadline: float) -> int:
    """How many runs to request, once a worker has too little to do; 0 if the tick ends first.

    Waits before it looks, since its caller has just seen that there is no room.
    """
    room = 0
    while not room and time.monotonic() < deadline:
        time.sleep(ROOM_PAUSE_SECONDS)
        room = room_for_runs(_runs_in_progress(instance, workers), workers)
    return room


def _runs_in_progress(instance: dg.DagsterInstance, workers: int) -> int:
    """The number of runs in progress, counted up to what leaves no room.

    The query leaves the job's name out: by that index, SQLite would read every run of the job.
    """
    enough = RUNS_PER_WORKER * max(workers, 1) + UPKEEP_RUNS
    runs = instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS), limit=enough)
    return sum(run.job_name == segment_images.name for run in runs)


def _claim(stage_context: StageContext, uuids: list[str]) -> list[Claim]:
    return stage_context.repository.claims.claim(
        uuids, run_key=new_run_key(uuids[0], 1, datetime.now(UTC))
    )


def request_run(claims: list[Claim]) -> dg.RunRequest:
    """A run over the claimed jobs: one partition, or the range that this tick registers."""
    uuids, run_key, tags = [claim.uuid for claim in claims], claims[0].run_key, tags_of_run(claims)
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
        run_requests=[request_run([claim]) for claim in report.retries],
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
