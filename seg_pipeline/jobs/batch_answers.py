"""What clients and the app server are told of a batch."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import Field

from seg_pipeline.domain import Moment, shown_model
from seg_pipeline.jobs.batch_records import Batch, BatchProgress, BatchStatus, EntryState, Problem
from seg_pipeline.jobs.records import FailureReason
from seg_pipeline.store.serialization import OPTIONAL


@dataclass(frozen=True, kw_only=True)
class BatchCounts:
    """How many pictures stand where; together they are the total."""

    waiting: Annotated[int, Field(description="No job yet: they become jobs in portions.")]
    queued: int
    processing: int
    completed: int
    failed: int
    cancelled: Annotated[int, Field(description="Cancelled with the batch, or deleted.")]


@dataclass(frozen=True, kw_only=True)
class BatchAnswer:
    """A batch as it stands."""

    uuid: str
    status: BatchStatus
    model: str
    total: int
    counts: BatchCounts
    per_second: Annotated[float, Field(description="Pictures that ended, over the last minute.")]
    eta_seconds: Annotated[
        float | None, Field(description="Until its end at this rate; null if it cannot be told.")
    ]
    rejected: Annotated[
        int, Field(description="Lines or files that are no jobs: broken, or there twice.")
    ]
    problems: Annotated[
        tuple[Problem, ...], Field(description="Of these the first hundred, each with its place.")
    ]
    accepted_at: Moment
    completed_at: Moment | None
    expires_at: Annotated[
        Moment | None, Field(description="From then on batch and files may be removed.")
    ]


@dataclass(frozen=True, kw_only=True)
class BatchEnd:
    """What the app server is told when a batch has ended."""

    uuid: str
    status: BatchStatus
    total: int
    completed: int
    failed: int
    cancelled: int
    rejected: int
    accepted_at: Moment
    completed_at: Moment | None
    expires_at: Moment | None
    batch_url: str
    export_url: str


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """A picture of a batch: its place from 0, its name or address, its job and how that stands."""

    index: int
    name: str
    uuid: str
    status: str
    error: Annotated[FailureReason | None, OPTIONAL] = None


def batch_answer(
    batch: Batch, progress: BatchProgress, now: datetime, live_uuids: Collection[str] = ()
) -> BatchAnswer:
    """The batch as it stands now; `live_uuids` are the jobs that workers have."""
    rate = progress.per_second(now)
    left = batch.total - progress.ended
    return BatchAnswer(
        uuid=batch.id,
        status=progress.status,
        model=shown_model(batch.model),
        total=batch.total,
        counts=_counts(batch, progress, live_uuids),
        per_second=round(rate, 3),
        eta_seconds=round(left / rate, 1) if rate and left else None,
        rejected=batch.rejected,
        problems=batch.problems,
        accepted_at=batch.accepted_at,
        completed_at=progress.ended_at,
        expires_at=batch.expires_at(progress),
    )


def batch_end(batch: Batch, progress: BatchProgress, base_url: str) -> BatchEnd:
    """What the app server is told of a batch that has ended so."""
    address = f"{base_url.rstrip('/')}/batches/{batch.id}"
    return BatchEnd(
        uuid=batch.id,
        status=progress.status,
        total=batch.total,
        completed=progress.count(EntryState.COMPLETED),
        failed=progress.count(EntryState.FAILED),
        cancelled=progress.count(EntryState.CANCELLED),
        rejected=batch.rejected,
        accepted_at=batch.accepted_at,
        completed_at=progress.ended_at,
        expires_at=batch.expires_at(progress),
        batch_url=address,
        export_url=f"{address}/export?format=coco",
    )


def _counts(batch: Batch, progress: BatchProgress, live_uuids: Collection[str]) -> BatchCounts:
    under_way = progress.indices(EntryState.OPEN)
    processing = sum(batch.uuid(index) in live_uuids for index in under_way)
    return BatchCounts(
        waiting=progress.count(EntryState.WAITING),
        queued=len(under_way) - processing,
        processing=processing,
        completed=progress.count(EntryState.COMPLETED),
        failed=progress.count(EntryState.FAILED),
        cancelled=progress.count(EntryState.CANCELLED),
    )
