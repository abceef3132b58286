"""The sensor that advances batches: their entries become jobs in portions, and ends are counted."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import dagster as dg

from seg_pipeline.errors import StoreUnavailable
from seg_pipeline.jobs.batch_work import WorkReport
from seg_pipeline.jobs.heartbeats import live_workers
from seg_pipeline.pipeline.stages import StageContext
from seg_pipeline.runtime.backfills import is_backfill_over

RUNS_AHEAD = 4
"""Full runs that each worker's share of the window makes: two that it has, and two to be fetched.

More would let another batch wait longer, and fewer would let a worker idle.
"""

BUSY_PAUSE_SECONDS, IDLE_PAUSE_SECONDS = 0.4, 0.5
STORE_PAUSE_SECONDS = 1.0


@dg.sensor(
    name="batches",
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Turns batches of the API into jobs, in portions as workers have room, and counts their"
        " ends. `inbox_sensor` requests their runs."
    ),
)
def batches_sensor(
    context: dg.SensorEvaluationContext, stage_context: dg.ResourceParam[StageContext]
) -> dg.SkipReason:
    """One tick: passes over all batches until its time is over."""
    try:
        is_over = partial(is_backfill_over, context.instance)
        return dg.SkipReason(_advance(stage_context, is_over).summary())
    except StoreUnavailable as error:
        time.sleep(min(STORE_PAUSE_SECONDS, stage_context.settings.tick_seconds))
        return dg.SkipReason(f"The store is unavailable, and nothing is lost: {error}")


def _advance(stage_context: StageContext, is_over: Callable[[str], bool]) -> WorkReport:
    settings, work = stage_context.settings, stage_context.repository.batch_work
    deadline, report = time.monotonic() + settings.tick_seconds, WorkReport()
    window = _window(stage_context)
    report.add(work.advance(window, datetime.now(UTC), True, is_over))
    while time.monotonic() < deadline:
        pause = BUSY_PAUSE_SECONDS if report.batches else IDLE_PAUSE_SECONDS
        time.sleep(min(max(settings.inbox_pause_seconds, pause), settings.tick_seconds))
        report.add(work.advance(window, datetime.now(UTC), False, is_over))
    return report


def _window(stage_context: StageContext) -> int:
    """How many jobs of batches may be under way."""
    settings = stage_context.settings
    workers = live_workers(stage_context.store, datetime.now(UTC), settings.worker_stale_seconds)
    return RUNS_AHEAD * settings.batch_size * max(1, len(workers))
