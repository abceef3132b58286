"""The hourly schedule that removes what has expired, and the asset in which it reports what it
removed."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice, takewhile

import dagster as dg

from seg_pipeline.defs.partitions import job_partitions
from seg_pipeline.jobs.heartbeats import (
    all_fetchers,
    all_workers,
    live_workers,
    remove_beat,
    remove_fetcher_beat,
)
from seg_pipeline.monitoring.service_state import PruneState, note_prune
from seg_pipeline.pipeline.stages import StageContext
from seg_pipeline.runtime.celery_app import broker_folder
from seg_pipeline.runtime.dagster_storage import delete_event, runless_events
from seg_pipeline.runtime.upkeep import UPKEEP_TAG
from seg_pipeline.settings import Settings
from seg_pipeline.store import keys
from seg_pipeline.telemetry.snapshots import MetricSnapshots

logger = logging.getLogger(__name__)

PER_PRUNE = 200_000
LONGEST_PRUNE_SECONDS = 40 * 60.0
"""At most so much of each kind goes in one prune, which has ended when the next begins; that
removes the rest."""

AT_ONCE = 16
"""Jobs that are deleted side by side: in a bucket each takes a dozen requests, one after the
other."""

ORPHAN_GRACE = timedelta(hours=1)
LEFTOVER_GRACE = timedelta(hours=1)
Removal = Callable[[], object]
"""Removes one thing when called."""

FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


@dataclass
class Pruned:
    """How much of each kind a prune removed, or would remove."""

    jobs: int = 0
    orphans: int = 0
    partitions: int = 0
    runs: int = 0
    events: int = 0
    parked: int = 0
    broker_messages: int = 0
    heartbeats: int = 0
    metric_folds: int = 0
    failures: int = 0
    first_failure: str = ""


class PruneConfig(dg.Config):
    """`dry_run` counts and removes nothing."""

    dry_run: bool = False


@dg.asset(
    group_name="upkeep",
    description="What the last prune removed: expired jobs and Dagster's own old records.",
)
def pruned(
    context: dg.AssetExecutionContext,
    config: PruneConfig,
    stage_context: dg.ResourceParam[StageContext],
) -> dg.MaterializeResult[None]:
    """Prunes, and reports the counts; fails in the end if something could not be removed."""
    begin = time.perf_counter()
    counts = prune(stage_context, context.instance, datetime.now(UTC), config.dry_run)
    if not config.dry_run:
        note_prune(stage_context.store, PruneState(datetime.now(UTC), counts.failures))
    seconds = round(time.perf_counter() - begin, 3)
    metadata = {**asdict(counts), "dry_run": config.dry_run, "seconds": seconds}
    if counts.failures:
        sentence = (
            f"{counts.failures} removals failed, and the next prune tries them again."
            f" {counts.first_failure}"
        )
        raise dg.Failure(sentence, metadata={**metadata})
    return dg.MaterializeResult(metadata=metadata)


def prune(
    stage_context: StageContext,
    instance: dg.DagsterInstance,
    now: datetime,
    dry_run: bool = False,
    longest_seconds: float = LONGEST_PRUNE_SECONDS,
) -> Pruned:
    """Removes what has expired by `now`. A job in flight or in the inbox is never touched.

    Each step may be repeated: a prune that dies is finished by the next. What cannot be removed is
    counted and does not keep the rest from going.
    """
    counts, deadline = Pruned(), time.monotonic() + longest_seconds
    steps = {
        "jobs": (_expired_jobs(stage_context, now), AT_ONCE),
        "orphans": (_orphans(stage_context, now), AT_ONCE),
        "partitions": (_partitions(stage_context, instance), 1),
        "runs": (_runs(stage_context, instance, now), 1),
        "events": (_events(stage_context, instance, now), 1),
        "parked": (_parked(stage_context, now), AT_ONCE),
        "broker_messages": (_broker_messages(stage_context.settings, now), 1),
        "heartbeats": (_heartbeats(stage_context, now), 1),
        "metric_folds": (_metric_folds(stage_context, now), 1),
    }
    for name, (removals, at_once) in steps.items():
        in_time = takewhile(lambda _: time.monotonic() < deadline, islice(removals, PER_PRUNE))
        problems = _count(in_time) if dry_run else _remove(in_time, at_once)
        _note(counts, name, problems)
    return counts


def _count(removals: Iterable[Removal]) -> Iterator[str | None]:
    return (None for _ in removals)


def _remove(removals: Iterable[Removal], at_once: int) -> Iterator[str | None]:
    """Does the removals, `at_once` side by side; for each what kept it from happening, or None."""
    rest = iter(removals)
    with ThreadPoolExecutor(at_once, thread_name_prefix="prune") as pool:
        while batch := [*islice(rest, 4 * at_once)]:
            yield from pool.map(_problem, batch) if at_once > 1 else map(_problem, batch)


def _problem(remove: Removal) -> str | None:
    try:
        remove()
    except Exception as error:
        logger.exception("something could not be removed")
        return f"{type(error).__name__}: {error}"
    return None


def _note(counts: Pruned, name: str, problems: Iterator[str | None]) -> None:
    done = 0
    for problem in problems:
        done += problem is None
        counts.failures += problem is not None
        counts.first_failure = counts.first_failure or problem or ""
    setattr(counts, name, done)


prune_job = dg.define_asset_job(
    "prune",
    selection=dg.AssetSelection.assets(pruned),
    executor_def=dg.in_process_executor,
    description="Removes expired jobs and old runs; `dry_run` counts them only.",
    tags={UPKEEP_TAG: "process"},
)

prune_schedule = dg.ScheduleDefinition(
    name="hourly_prune",
    job=prune_job,
    cron_schedule="7 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Prunes every hour, at seven past, when fewer things start than on the hour.",
)


def _expired_jobs(stage_context: StageContext, now: datetime) -> Iterator[Removal]:
    """Jobs whose time is over; one that an operator has run again just now is left until the next
    prune, and one that the app server is still to be told of until it has been told, and had the
    time to fetch its files."""
    heartbeats = live_workers(stage_context.store, now, stage_context.settings.worker_stale_seconds)
    busy = {uuid for heartbeat in heartbeats for uuid in heartbeat.uuids}
    if stage_context.settings.app_server_url:
        busy |= stage_context.inbox.outbox.uuids()
    for expired in stage_context.inbox.expired(now, PER_PRUNE, busy):
        yield partial(stage_context.inbox.expire, expired)


def _orphans(stage_context: StageContext, now: datetime) -> Iterator[Removal]:
    for uuid in stage_context.inbox.orphans(older_than=now - ORPHAN_GRACE):
        yield partial(stage_context.inbox.remove_leftovers, uuid)


def _partitions(stage_context: StageContext, instance: dg.DagsterInstance) -> Iterator[Removal]:
    """Keys whose job is gone, and the oldest of those past LIVE_PARTITIONS, as far as they are not
    under way."""
    name = job_partitions.name or ""
    registered = instance.get_dynamic_partitions(name)
    living = set(stage_context.store.list_folders(keys.ASSETS))
    under_way = {claim.uuid for claim in stage_context.inbox.inflight()}
    surplus = set(registered[: max(0, len(registered) - stage_context.settings.live_partitions)])
    for uuid in registered:
        if (uuid not in living or uuid in surplus) and uuid not in under_way:
            yield partial(instance.delete_dynamic_partition, name, uuid)


def _runs(
    stage_context: StageContext, instance: dg.DagsterInstance, now: datetime
) -> Iterator[Removal]:
    """Finished runs past their retention, oldest first, with all that they wrote."""
    before = now - timedelta(seconds=stage_context.settings.run_retention_seconds)
    filters = dg.RunsFilter(statuses=FINISHED, created_before=before)
    for run_id in instance.get_run_ids(filters, limit=PER_PRUNE):
        yield partial(instance.delete_run, run_id)


def _events(
    stage_context: StageContext, instance: dg.DagsterInstance, now: datetime
) -> Iterator[Removal]:
    """What belongs to no run, such as the outbox relay's reports, when it is as old as runs may
    get."""
    before = now - timedelta(seconds=stage_context.settings.run_retention_seconds)
    for event_id in runless_events(instance, before, PER_PRUNE):
        yield partial(delete_event, instance, event_id)


def _parked(stage_context: StageContext, now: datetime) -> Iterator[Removal]:
    """Notes on messages and deliveries that nobody has cared for."""
    before = now - timedelta(seconds=stage_context.settings.parked_ttl_seconds)
    for info in stage_context.store.list(keys.PARKED):
        if info.last_modified < before:
            yield partial(stage_context.store.delete, info.key)


def _broker_messages(settings: Settings, now: datetime) -> Iterator[Removal]:
    """Messages that were taken from the embedded broker, and halves of messages that were never
    sent."""
    if settings.broker_url:
        return
    oldest = (now - LEFTOVER_GRACE).timestamp()
    folder = broker_folder(settings)
    for path in (*folder.glob("taken/*"), *folder.glob("messages/.*.part")):
        if path.stat().st_mtime < oldest:
            yield partial(path.unlink, missing_ok=True)


def _heartbeats(stage_context: StageContext, now: datetime) -> Iterator[Removal]:
    """Heartbeats of workers and fetchers that have been silent for a day."""
    for heartbeat in all_workers(stage_context.store):
        if now - heartbeat.beat_at > timedelta(days=1):
            yield partial(remove_beat, stage_context.store, heartbeat.name)
    for fetcher in all_fetchers(stage_context.store):
        if now - fetcher.beat_at > timedelta(days=1):
            yield partial(remove_fetcher_beat, stage_context.store, fetcher.name)


def _metric_folds(stage_context: StageContext, now: datetime) -> Iterator[Removal]:
    """The counts of processes that have ended, each in a file of its own; their sum stays."""
    snapshots = MetricSnapshots(stage_context.store)
    if any(snapshot.is_over(now) for snapshot in snapshots.all()):
        yield partial(snapshots.fold, now)
