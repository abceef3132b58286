"""What is kept of a batch: its request, its entries in portions, and how far it has come."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Self

from seg_pipeline.domain import Job, JobStatus, Moment, Parameters, batch_uuid
from seg_pipeline.errors import JobCancelled
from seg_pipeline.jobs.records import FailureReason, Result
from seg_pipeline.store.serialization import OPTIONAL

PORTION = 500
"""Entries of one file."""

SAMPLE_SECONDS = 10
SAMPLES = 7
"""The rate is that of the last minute, so that it is soon right again after a standstill."""


class EntryState(StrEnum):
    """Where an entry of a batch stands, in one letter."""

    WAITING = "."
    OPEN = "o"
    COMPLETED = "c"
    FAILED = "f"
    CANCELLED = "x"


class BatchStatus(StrEnum):
    """Whether a batch has ended. `CANCELLED` has entries that were cancelled."""

    PROCESSING = "processing"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Problem:
    """Why a line of a list, or a file of a ZIP, is no job."""

    where: str
    code: str
    message: str


@dataclass(frozen=True)
class Entry:
    """A picture of a batch: an address, or a picture that came with the batch, and its name."""

    name: str
    address: Annotated[str | None, OPTIONAL] = None
    sha256: Annotated[str | None, OPTIONAL] = None
    extension: Annotated[str | None, OPTIONAL] = None


@dataclass(frozen=True)
class Portion:
    """`entries/0000.json`: the next entries, in order."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """`batch.json`: what was asked for. Of what was rejected, the first `problems` are kept.

    `fingerprint` tells two requests under one id apart. With `callback` the app server is told of
    the batch's end. The address `webhook` is told too.
    """

    id: str
    model: str
    total: int
    fingerprint: str
    resize: int | None = None
    ttl_seconds: int = 3600
    parameters: Parameters = field(default_factory=dict)
    rle: bool = False
    callback: bool = False
    webhook: Annotated[str | None, OPTIONAL] = None
    rejected: int = 0
    problems: tuple[Problem, ...] = ()
    accepted_at: Moment

    def uuid(self, index: int) -> str:
        """The uuid of the job of an entry, by its place from 0."""
        return batch_uuid(self.id, index)

    def job(self, index: int, entry: Entry, now: datetime) -> Job:
        """The job of an entry: the same each time, but for its time. Raises RequestError."""
        return Job(
            self.uuid(index),
            model=self.model,
            image_url=entry.address,
            source_sha256=entry.sha256,
            source_extension=entry.extension,
            resize=self.resize,
            ttl_seconds=self.ttl_seconds,
            via="batch",
            parameters=self.parameters,
            rle=self.rle,
            accepted_at=now,
        )

    def expires_at(self, progress: "BatchProgress") -> datetime | None:
        """When the files of its jobs may be removed; None before it has ended."""
        if progress.ended_at is None:
            return None
        return progress.ended_at + timedelta(seconds=self.ttl_seconds)


@dataclass(frozen=True)
class Sample:
    """How many entries had ended at a time."""

    at: Moment
    ended: int


@dataclass(frozen=True)
class BatchProgress:
    """`progress.json`: the state of each entry, a letter of `EntryState` each.

    The sensor alone writes it. `refused` says why an entry could not become a job.
    """

    states: str
    changed_at: Moment
    ended_at: Moment | None = None
    samples: tuple[Sample, ...] = ()
    picture_seconds: float | None = None
    """What all stages take for a picture, by the last ones that ended; they overlap."""
    refused: Mapping[int, FailureReason] = field(default_factory=dict)

    @classmethod
    def begin(cls, batch: Batch) -> Self:
        """The progress of a batch before any of its entries is a job."""
        return cls(EntryState.WAITING * batch.total, batch.accepted_at)

    @property
    def sha256(self) -> str:
        """Names this very end of the batch in its delivery."""
        return hashlib.sha256(f"{self.ended_at}{self.states}".encode()).hexdigest()

    @property
    def is_over(self) -> bool:
        """Whether all entries have ended."""
        return not (self.count(EntryState.WAITING) or self.count(EntryState.OPEN))

    @property
    def ended(self) -> int:
        """How many entries have ended."""
        return len(self.states) - self.count(EntryState.WAITING) - self.count(EntryState.OPEN)

    @property
    def status(self) -> BatchStatus:
        """What clients are told."""
        if self.ended_at is None:
            return BatchStatus.PROCESSING
        is_cancelled = self.count(EntryState.CANCELLED) > 0
        return BatchStatus.CANCELLED if is_cancelled else BatchStatus.COMPLETED

    def count(self, state: EntryState) -> int:
        """How many entries are in a state."""
        return self.states.count(state)

    def indices(self, state: EntryState, limit: int | None = None, after: int = -1) -> list[int]:
        """The first entries in a state whose place comes after `after`."""
        found: list[int] = []
        index = self.states.find(state, after + 1)
        while index >= 0 and (limit is None or len(found) < limit):
            found.append(index)
            index = self.states.find(state, index + 1)
        return found

    def with_states(self, changed: Mapping[int, EntryState], now: datetime) -> Self:
        """The progress after some entries have changed; the same if none has."""
        letters = [*self.states]
        for index, state in changed.items():
            if index < len(letters):
                letters[index] = state
        states = "".join(letters)
        return self if states == self.states else replace(self, states=states, changed_at=now)

    def sampled(self, now: datetime) -> Self:
        """The progress with a sample for its rate, if it is time for one."""
        pause = timedelta(seconds=SAMPLE_SECONDS)
        if self.ended_at or (self.samples and now - self.samples[-1].at < pause):
            return self
        return replace(self, samples=(*self.samples, Sample(now, self.ended))[-SAMPLES:])

    def per_second(self, now: datetime) -> float:
        """Entries that ended in a second, over the last minute; 0 if it cannot be told."""
        if self.ended_at or not self.samples:
            return 0.0
        first = self.samples[0]
        seconds = (now - first.at).total_seconds()
        return (self.ended - first.ended) / seconds if seconds >= 1 else 0.0


def state_of(result: Result) -> EntryState:
    """The state of an entry whose job has ended so."""
    if result.status is JobStatus.COMPLETED:
        return EntryState.COMPLETED
    is_cancelled = result.error is not None and result.error.code == JobCancelled.code
    return EntryState.CANCELLED if is_cancelled else EntryState.FAILED
