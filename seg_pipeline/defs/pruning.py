"""The hourly schedule that removes what has expired, and the asset that reports the removals."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain, islice, takewhile

import dagster as dg

from seg_pipeline.defs.asset_specs import OPERATORS
from seg_pipeline.defs.partitions import job_partitions
from seg_pipeline.domain import batch_of
from seg_pipeline.jobs.heartbeats import (
    all_fetchers,
    all_upkeep,
    all_workers,
    live_workers,
    remove_fetcher_heartbeat,
    remove_heartbeat,
    remove_upkeep_heartbeat,
    uuids_at_work,
)
from seg_pipeline.jobs.leftovers import (
    Found,
    Part,
    SearchPlace,
    note_round,
    places_of,
    read_round,
    search,
)
from seg_pipeline.jobs.markers import marker_name
from seg_pipeline.monitoring.alarms import PRUNE_LATE_AFTER
from seg_pipeline.monitoring.service_state import PruneState, note_prune
from seg_pipeline.pipeline.stage_names import StageName
from seg_pipeline.pipeline.stages import StageContext
from seg_pipeline.runtime.celery_app import broker_folder
from seg_pipeline.runtime.dagster_storage import count_partitions, delete_event, runless_events
from seg_pipeline.runtime.upkeep import UPKEEP_TAG
from seg_pipeline.settings import Settings
from seg_pipeline.store import keys
from seg_pipeline.telemetry.snapshots import MetricSnapshots

logger = logging.getLogger(__name__)

PER_PRUNE = 200_000
LONGEST_PRUNE_SECONDS = 40 * 60.0
"""The limits of one prune, for each kind of file and in time. The next one removes the rest.

A prune has therefore ended when the next one begins.
"""

AT_ONCE = 16
"""Jobs deleted at the same time: in a bucket each takes a dozen requests in sequence."""

SEARCHED = 1000
"""The names that one prune searches for leftovers.

A job has three: its files, the mark of its end and its partition. With 10,000 live jobs, a round of
so the search takes thirty hours.
"""

ORPHAN_GRACE = timedelta(hours=1)
LEFTOVER_GRACE = timedelta(hours=1)
Removal = Callable[[], object]
"""Removes one file or record when called."""

FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


@dataclass(frozen=True)
class Limits:
    """How long a prune may take, and how many names it searches for leftovers."""

    seconds: float = LONGEST_PRUNE_SECONDS
    searched: int = SEARCHED


USUAL_LIMITS = Limits()


@dataclass
class Pruned:
    """How much of each kind a prune removed, or would remove, and how far its search came.

    Of the search for leftovers it says how many names were searched this time and in this round,
    where it stands, when this round began and when the former one ended.
    """

    jobs: int = 0
    batches: int = 0
    orphans: int = 0
    partitions: int = 0
    runs: int = 0
    run_logs: int = 0
    events: int = 0
    parked: int = 0
    idempotency_keys: int = 0
    reuse: int = 0
    broker_messages: int = 0
    heartbeats: int = 0
    metric_folds: int = 0
    failures: int = 0
    first_failure: str = ""
    searched: int = field(default=0, compare=False)
    searched_in_round: int = field(default=0, compare=False)
    search_stands_at: str = field(default="", compare=False)
    search_round_began_at: str = field(default="", compare=False)
    former_round_ended_at: str = field(default="", compare=False)


class PruneConfig(dg.Config):
    """Options of a prune: `dry_run` counts and removes nothing.

    It is what somebody gets who starts a prune by hand. The schedule says otherwise.
    """

    dry_run: bool = True


@dg.asset(
    group_name="upkeep",
    deps=[StageName.RESULT.value],
    owners=[OPERATORS],
    kinds={"python"},
    freshness_policy=dg.FreshnessPolicy.time_window(
        fail_window=PRUNE_LATE_AFTER, warn_window=timedelta(minutes=75)
    ),
    description=(
        "What the last prune removed: expired jobs and Dagster's own old records.\n\n"
        "The schedule `hourly_prune` makes it. Materialised by hand it counts only, unless its"
        " configuration says `dry_run: false`."
    ),
)
def pruned(
    context: dg.AssetExecutionContext,
    config: PruneConfig,
    stage_context: dg.ResourceParam[StageContext],
) -> dg.MaterializeResult[None]:
    """Prunes, and reports the counts. Fails at the end if something could not be removed."""
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
    limits: Limits = USUAL_LIMITS,
) -> Pruned:
    """Removes what has expired by `now`, and the leftovers among the names whose turn it is.

    A job in flight or in the inbox is never touched. Each step may be repeated: the next prune
    finishes one that died. A failed removal is counted, and the others go on. The cost grows with
    what is removed, and not with what stays.
    """
    counts, deadline = Pruned(), time.monotonic() + limits.seconds
    found = _search(stage_context, instance, now, limits.searched)

    def work_off(steps: Iterable[Step]) -> None:
        for name, removals, at_once in steps:
            in_time = takewhile(lambda _: time.monotonic() < deadline, islice(removals, PER_PRUNE))
            _note(counts, name, _count(in_time) if dry_run else _remove(in_time, at_once))

    work_off(_leftovers(stage_context, instance, found))
    if time.monotonic() < deadline and not dry_run:
        note_round(stage_context.store, found.next)
    work_off(_due(stage_context, instance, now))
    return _with_search(counts, found)


Step = tuple[str, Iterable[Removal], int]
"""A kind that is counted, its removals, and how many of these run at the same time."""


def _leftovers(
    stage_context: StageContext, instance: dg.DagsterInstance, found: Found
) -> Iterator[Step]:
    """The leftovers come first, so that the search advances however much else there is to do."""
    leftovers = dict(found.leftovers)
    gone = leftovers.pop(_PARTITIONS)
    orphans = dict.fromkeys(chain.from_iterable(leftovers.values()))
    remove = stage_context.repository.removal.remove_leftovers
    yield "orphans", (partial(remove, uuid) for uuid in orphans), AT_ONCE
    yield "partitions", _deletions(stage_context, instance, gone), 1


def _due(
    stage_context: StageContext, instance: dg.DagsterInstance, now: datetime
) -> Iterator[Step]:
    expired: list[str] = []
    yield "batches", _expired_batches(stage_context, now), 1
    yield "jobs", _expired_jobs(stage_context, now, expired), AT_ONCE
    yield "partitions", _partitions(stage_context, instance, expired), 1
    runs = _old_runs(stage_context, instance, now)
    yield "run_logs", _run_logs(stage_context, runs), AT_ONCE
    yield "runs", (partial(instance.delete_run, run_id) for run_id in runs), 1
    yield "events", _events(stage_context, instance, now), 1
    yield "parked", _parked(stage_context, now), AT_ONCE
    yield "idempotency_keys", _idempotency_keys(stage_context, now), AT_ONCE
    yield "reuse", _reuse(stage_context, now), AT_ONCE
    yield "broker_messages", _broker_messages(stage_context.settings, now), 1
    yield "heartbeats", _heartbeats(stage_context, now), 1
    yield "metric_folds", _metric_folds(stage_context, now), 1


def _with_search(counts: Pruned, found: Found) -> Pruned:
    stands = found.next
    counts.searched, counts.searched_in_round = found.searched, stands.searched
    counts.search_stands_at = f"{stands.place}{stands.cursor}" if stands.place else "the beginning"
    counts.search_round_began_at = stands.began_at.isoformat()
    if stands.former_ended_at:
        counts.former_round_ended_at = stands.former_ended_at.isoformat()
    return counts


def _count(removals: Iterable[Removal]) -> Iterator[str | None]:
    return (None for _ in removals)


def _remove(removals: Iterable[Removal], at_once: int) -> Iterator[str | None]:
    """Does the removals, `at_once` at a time. Yields for each its problem, or None."""
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
    done = getattr(counts, name)
    for problem in problems:
        done += problem is None
        counts.failures += problem is not None
        counts.first_failure = counts.first_failure or problem or ""
    setattr(counts, name, done)


prune_job = dg.define_asset_job(
    "prune",
    selection=dg.AssetSelection.assets(pruned),
    executor_def=dg.in_process_executor,
    description="Removes expired jobs and old runs; counts them only, unless `dry_run` is false.",
    tags={UPKEEP_TAG: "process"},
)

prune_schedule = dg.ScheduleDefinition(
    name="hourly_prune",
    job=prune_job,
    cron_schedule="7 * * * *",
    run_config={"ops": {"pruned": {"config": {"dry_run": False}}}},
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Prunes every hour, at seven past, when fewer things start than on the hour.",
)


def _expired_batches(stage_context: StageContext, now: datetime) -> Iterator[Removal]:
    """Batches whose time is over; their jobs then expire as others do."""
    batches, untold = stage_context.repository.batches, _untold(stage_context)
    for batch_id in batches.expired(now, LEFTOVER_GRACE):
        if untold.isdisjoint(keys.names_of_batch(batch_id)):
            yield partial(batches.forget, batch_id)


def _expired_jobs(
    stage_context: StageContext, now: datetime, expired: list[str]
) -> Iterator[Removal]:
    """Jobs whose time is over, except those still in use. Adds their uuids to `expired`.

    A job that an operator has just run again is left for a later prune. So is one whose callback is
    not delivered yet: the app server needs time to fetch its files.
    """
    heartbeats = live_workers(stage_context.store, now, stage_context.settings.worker_stale_seconds)
    busy = uuids_at_work(heartbeats) | _untold(stage_context)
    batches = set(stage_context.repository.batches.ids())
    for job in stage_context.repository.expiry.expired(now, PER_PRUNE, busy):
        if batch_of(job.uuid) in batches:  # kept as long as its batch
            continue
        expired.append(job.uuid)
        yield partial(stage_context.repository.expiry.expire, job)


def _untold(stage_context: StageContext) -> set[str]:
    """The jobs and batches that somebody is still to be told of, or was told of late."""
    settings, outbox = stage_context.settings, stage_context.repository.outbox
    untold = outbox.uuids() if settings.app_server_url else set[str]()
    return untold | (outbox.uuids(keys.WEBHOOKS) if settings.webhook_hosts else set())


def _search(
    stage_context: StageContext, instance: dg.DagsterInstance, now: datetime, limit: int
) -> Found:
    """Searches for files and partitions of gone jobs, from where the last prune stopped."""
    places = places_of(stage_context.repository, now - ORPHAN_GRACE)
    partitions = SearchPlace(
        _PARTITIONS, partial(_registered, instance), partial(_without_job, stage_context)
    )
    return search([*places, partitions], read_round(stage_context.store, now), limit, now)


_PARTITIONS = "partitions/"
"""The search's name for the keys that are registered in Dagster."""


def _registered(instance: dg.DagsterInstance, cursor: str | None, limit: int) -> Part:
    page = instance.get_paginated_dynamic_partitions(
        job_partitions.name or "", limit=limit, ascending=True, cursor=cursor
    )
    return page.results, page.cursor


def _without_job(stage_context: StageContext, uuids: Sequence[str]) -> list[str]:
    store = stage_context.store
    requests = store.at_once([partial(store.head, keys.request(uuid)) for uuid in uuids])
    return [uuid for uuid, request in zip(uuids, requests, strict=True) if request is None]


def _partitions(
    stage_context: StageContext, instance: dg.DagsterInstance, expired: Sequence[str]
) -> Iterator[Removal]:
    """The keys of jobs that have just expired, and the oldest keys beyond LIVE_PARTITIONS."""
    name = job_partitions.name or ""
    gone = instance.get_existing_dynamic_partitions(name, expired)
    surplus = count_partitions(instance, name) - stage_context.settings.live_partitions
    oldest = _registered(instance, None, min(surplus, PER_PRUNE))[0] if surplus > 0 else ()
    yield from _deletions(stage_context, instance, dict.fromkeys((*gone, *oldest)))


def _deletions(
    stage_context: StageContext, instance: dg.DagsterInstance, uuids: Iterable[str]
) -> Iterator[Removal]:
    """The deletions of these keys, except those of jobs in flight."""
    infos = stage_context.store.list(keys.INFLIGHT)
    under_way = {marker_name(info) for info in infos}
    for uuid in uuids:
        if uuid not in under_way:
            yield partial(instance.delete_dynamic_partition, job_partitions.name or "", uuid)


def _old_runs(
    stage_context: StageContext, instance: dg.DagsterInstance, now: datetime
) -> Sequence[str]:
    """Finished runs past their retention, oldest first."""
    before = now - timedelta(seconds=stage_context.settings.run_retention_seconds)
    filters = dg.RunsFilter(statuses=FINISHED, created_before=before)
    return instance.get_run_ids(filters, limit=PER_PRUNE)


def _run_logs(stage_context: StageContext, run_ids: Iterable[str]) -> Iterator[Removal]:
    """The runs' output and logs. They go before the records that lead to them."""
    for run_id in run_ids:
        yield partial(stage_context.store.delete_folder, keys.run_logs(run_id))


def _events(
    stage_context: StageContext, instance: dg.DagsterInstance, now: datetime
) -> Iterator[Removal]:
    """Events of no run past the retention of runs, such as the outbox relay's reports."""
    before = now - timedelta(seconds=stage_context.settings.run_retention_seconds)
    for event_id in runless_events(instance, before, PER_PRUNE):
        yield partial(delete_event, instance, event_id)


def _parked(stage_context: StageContext, now: datetime) -> Iterator[Removal]:
    """Parked messages and deliveries past their retention."""
    before = now - timedelta(seconds=stage_context.settings.parked_ttl_seconds)
    for info in stage_context.store.list(keys.PARKED):
        if info.last_modified < before:
            yield partial(stage_context.store.delete, info.key)


def _idempotency_keys(stage_context: StageContext, now: datetime) -> Iterator[Removal]:
    """Idempotency keys that were sent first before their time began."""
    before = now - timedelta(seconds=stage_context.settings.idempotency_key_seconds)
    for key in stage_context.repository.idempotency.older_than(before):
        yield partial(stage_context.store.delete, key)


def _reuse(stage_context: StageContext, now: datetime) -> Iterator[Removal]:
    """What leads from a question to an answer that is gone."""
    before = now - timedelta(seconds=stage_context.settings.asset_ttl_seconds)
    for key in stage_context.repository.reuse.forgotten(before):
        yield partial(stage_context.store.delete, key)


def _broker_messages(settings: Settings, now: datetime) -> Iterator[Removal]:
    """Messages taken from the embedded broker, and halves of messages that were never sent."""
    if settings.broker_url:
        return
    oldest = (now - LEFTOVER_GRACE).timestamp()
    folder = broker_folder(settings)
    for path in (*folder.glob("taken/*"), *folder.glob("messages/.*.part")):
        if path.stat().st_mtime < oldest:
            yield partial(path.unlink, missing_ok=True)


def _heartbeats(stage_context: StageContext, now: datetime) -> Iterator[Removal]:
    """Heartbeats of processes that have been silent for a day."""
    store = stage_context.store
    for heartbeats, remove in (
        (all_workers(store), remove_heartbeat),
        (all_fetchers(store), remove_fetcher_heartbeat),
        (all_upkeep(store), remove_upkeep_heartbeat),
    ):
        for heartbeat in heartbeats:
            if now - heartbeat.beat_at > timedelta(days=1):
                yield partial(remove, store, heartbeat.name)


def _metric_folds(stage_context: StageContext, now: datetime) -> Iterator[Removal]:
    """The metrics of ended processes, each in its own file. Their sum stays."""
    snapshots = MetricSnapshots(stage_context.store)
    if any(snapshot.is_over(now) for snapshot in snapshots.all()):
        yield partial(snapshots.fold, now)
