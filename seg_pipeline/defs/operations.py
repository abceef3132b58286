"""Jobs for operators: what failed again, what is parked again, a pause, a model
before its first picture.

Each may be launched at any time, from the UI or by `dagster job launch`, and may be repeated.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, TypeVar

import dagster as dg
from pydantic import Field

from seg_pipeline.defs.assets import segmentation_assets
from seg_pipeline.defs.partitions import job_partitions
from seg_pipeline.defs.run_tags import BATCH
from seg_pipeline.domain import JobStatus, check_model
from seg_pipeline.errors import SegPipelineError
from seg_pipeline.jobs.batch_records import Batch, EntryState
from seg_pipeline.jobs.drain import Drain, begin_drain, end_drain
from seg_pipeline.jobs.listing import Page
from seg_pipeline.jobs.parked import Parked, ParkedItems, ParkedKind, ParkedList
from seg_pipeline.pipeline.stages import StageContext
from seg_pipeline.runtime.backfills import request_backfill
from seg_pipeline.runtime.upkeep import UPKEEP_TAG

PAGE = 1000


class RerunConfig(dg.Config):
    """Which failed jobs are run again: those that ended within so many hours, at most `limit`.

    `code` chooses those with that error. `dry_run` only lists them.
    """

    hours: float = 1.0
    code: str | None = None
    limit: int = 1000
    dry_run: bool = True


class RerunBatchConfig(dg.Config):
    """The batch of which what failed is run again, at most `limit` of it.

    `code` chooses the jobs with that error. `dry_run` only lists them.
    """

    batch: str
    code: str | None = None
    limit: int = 10_000
    dry_run: bool = True


class ReplayConfig(dg.Config):
    """How many parked callbacks are sent again; `dry_run` only lists them."""

    limit: int = 1000
    dry_run: bool = True


class DrainConfig(dg.Config):
    """For how long no waiting job gets a run; 0 ends a drain."""

    minutes: float = Field(default=60.0, ge=0, le=24 * 60)


class WarmConfig(dg.Config):
    """The model to load."""

    model: str


@dg.op(required_resource_keys={"stage_context"})
def rerun_failed_jobs(context: dg.OpExecutionContext, config: RerunConfig) -> None:
    """Finds the failed jobs, and requests one backfill of all their stages."""
    stage_context: StageContext = context.resources.stage_context
    since = datetime.now(UTC) - timedelta(hours=config.hours)
    uuids = [*islice(_failed_since(stage_context, since, config.code), config.limit)]
    backfill = None
    if uuids and not config.dry_run:
        backfill = _request_backfill(context, uuids)
    _show_failed(context, uuids, config.dry_run, backfill)


@dg.op(required_resource_keys={"stage_context"})
def rerun_failed_of_batch(context: dg.OpExecutionContext, config: RerunBatchConfig) -> None:
    """Finds what failed of the batch, and requests one backfill of it."""
    stage_context: StageContext = context.resources.stage_context
    batch = stage_context.repository.batches.get(config.batch)
    uuids = [*islice(_failed_of(stage_context, batch, config.code), config.limit)]
    backfill = None
    if uuids and not config.dry_run:
        backfill = _request_backfill(context, uuids, {BATCH: batch.id})
        stage_context.repository.batches.note_rerun(batch, backfill)
    _show_failed(context, uuids, config.dry_run, backfill)


@dg.op(required_resource_keys={"stage_context"})
def replay_parked_callbacks(context: dg.OpExecutionContext, config: ReplayConfig) -> None:
    """Records each parked callback anew, for the relay to send."""
    stage_context: StageContext = context.resources.stage_context
    items = ParkedItems(stage_context.store)
    parked = [*islice(_parked_callbacks(items), config.limit)]
    problems = [] if config.dry_run else [*filter(None, (_replay(items, each) for each in parked))]
    for problem in problems[:20]:
        context.log.warning(problem)
    context.add_output_metadata(
        {"parked": len(parked), "dry_run": config.dry_run, "not_replayable": len(problems)}
    )


@dg.op(required_resource_keys={"stage_context"})
def drain_runs(context: dg.OpExecutionContext, config: DrainConfig) -> None:
    """Begins a drain, or ends the one that is on."""
    stage_context: StageContext = context.resources.stage_context
    now = datetime.now(UTC)
    until = now + timedelta(minutes=config.minutes)
    if config.minutes:
        begin_drain(stage_context.store, Drain(now, until))
    else:
        end_drain(stage_context.store)
    jobs = len(stage_context.repository.claims.inflight())
    context.add_output_metadata(
        {"drained_until": dg.MetadataValue.timestamp(until), "jobs_under_way": jobs}
    )


@dg.op(required_resource_keys={"stage_context"})
def load_model(context: dg.OpExecutionContext, config: WarmConfig) -> None:
    """Loads the model on the worker that takes the run, where it stays until it is idle."""
    stage_context: StageContext = context.resources.stage_context
    model = check_model(config.model, stage_context.settings.offered_models)
    with stage_context.models.borrow(model) as segmenter:
        context.add_output_metadata({"model": model, "weights_sha256": segmenter.weights_sha256})


def _show_failed(
    context: dg.OpExecutionContext, uuids: list[str], dry_run: bool, backfill: str | None
) -> None:
    context.log.info(f"{len(uuids)} failed jobs: {', '.join(uuids[:20])}")
    context.add_output_metadata(
        {"failed": len(uuids), "dry_run": dry_run, "backfill": backfill or "none"}
    )


def _failed_since(stage_context: StageContext, since: datetime, code: str | None) -> Iterator[str]:
    listing = stage_context.repository.listing
    for page in _pages(lambda after: listing.page(JobStatus.FAILED, after, PAGE)):
        for entry in page.jobs:
            if entry.since >= since and (code is None or _code(stage_context, entry.uuid) == code):
                yield entry.uuid


def _failed_of(stage_context: StageContext, batch: Batch, code: str | None) -> Iterator[str]:
    """The failed jobs of a batch, without entries that could not become jobs."""
    progress = stage_context.repository.batches.progress(batch)
    for index in progress.indices(EntryState.FAILED):
        uuid = batch.uuid(index)
        if index not in progress.refused and code in (None, _code(stage_context, uuid)):
            yield uuid


def _code(stage_context: StageContext, uuid: str) -> str | None:
    result = stage_context.repository.result(uuid)
    return result.error.code if result and result.error else None


def _request_backfill(
    context: dg.OpExecutionContext, uuids: list[str], tags: Mapping[str, str] | None = None
) -> str:
    """A backfill as the UI's *Materialize* makes it, of the jobs' partitions. Returns its id."""
    context.instance.add_dynamic_partitions(job_partitions.name or "", uuids)
    return request_backfill(
        context.instance,
        segmentation_assets,
        uuids,
        title="Failed jobs again",
        description=f"Requested by run {context.run_id}.",
        tags=tags,
    )


def _parked_callbacks(items: ParkedItems) -> Iterator[Parked]:
    for page in _pages(lambda after: items.page(after, PAGE)):
        yield from (each for each in page.parked if each.kind is ParkedKind.CALLBACK)


AnyPage = TypeVar("AnyPage", Page, ParkedList)


def _pages(read: Callable[[str | None], AnyPage]) -> Iterator[AnyPage]:
    """All pages of a listing; `read` gets where the one before ended."""
    page = read(None)
    yield page
    while page.next is not None:
        page = read(page.next)
        yield page


def _replay(items: ParkedItems, parked: Parked) -> str | None:
    """Why it cannot be sent again; None if it will be."""
    try:
        items.replay_callback(parked)
    except SegPipelineError as error:
        return f"{parked.name}: {error}"
    return None


def _job(name: str, op: dg.OpDefinition, description: str, **tags: Any) -> dg.JobDefinition:
    @dg.graph(name=f"{name}_graph")
    def one_op() -> None:
        op()

    return one_op.to_job(
        name=name, description=description, tags=tags, executor_def=dg.in_process_executor
    )


_PROCESS = {UPKEEP_TAG: "process"}

rerun_failed = _job(
    "rerun_failed",
    rerun_failed_jobs,
    "Runs again what failed in the last hours, as a backfill. Lists only, unless `dry_run` is"
    " false.",
    **_PROCESS,
)
rerun_batch = _job(
    "rerun_batch",
    rerun_failed_of_batch,
    "Runs again what failed of a batch of clients, as a backfill; name its id as `batch`. Lists"
    " only, unless `dry_run` is false.",
    **_PROCESS,
)
replay_callbacks = _job(
    "replay_callbacks",
    replay_parked_callbacks,
    "Tells the app server again of every parked callback. Lists only, unless `dry_run` is false.",
    **_PROCESS,
)
drain = _job(
    "drain",
    drain_runs,
    "Starts no further runs for some minutes, so that what is under way ends. Jobs are accepted and"
    " wait. `minutes: 0` ends it.",
    **_PROCESS,
)
warm_model = _job(
    "warm_model",
    load_model,
    "Loads a model on a worker, before the first picture needs it.",
)
operator_jobs = [rerun_failed, rerun_batch, replay_callbacks, drain, warm_model]
