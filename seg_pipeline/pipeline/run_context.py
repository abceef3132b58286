"""The state of one run: what its jobs keep in memory from stage to stage, and its threads.

The thread that executes the run calls the model, because a cancel reaches that thread alone. Beside
it, *waiters* read and decode the next pictures, and *encoders* write the model's output. Waiters
alone wait for memory. Nothing that frees memory runs on a waiter, so a run cannot deadlock.
"""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from seg_pipeline.domain import Job, RgbImage
from seg_pipeline.errors import JobCancelled
from seg_pipeline.jobs.result_document import ModelOutput, Timing
from seg_pipeline.telemetry.logs import InheritingPool, about

T = TypeVar("T")

WAITERS = 8
ENCODERS = max(2, os.cpu_count() or 1)


def make_encoders() -> ThreadPoolExecutor:
    """Threads for encoding, which outlive the runs: OpenCV needs some 12 ms to set itself up in
    each thread."""
    return InheritingPool(ENCODERS, "encode")


Outcome = Callable[[], dict[str, Any]]
"""What became of a stage of a job, once it is known: waits, then gives its metadata or raises its
error."""


class MemoryBudget:
    """A limit on the bytes held at once. Whoever wants more waits until others release theirs."""

    def __init__(self, limit_bytes: int) -> None:
        self.held_bytes = 0
        self._limit_bytes = limit_bytes
        self._closed = False
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        """Holds `size` bytes more, once they fit. More than the whole limit waits until nothing is
        held.

        Raises CancelledError as soon as the budget is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self.held_bytes or self._fits(size))
            if self._closed:
                raise CancelledError("the run is over, and nobody needs its pictures any more")
            self.held_bytes += size

    def give_back(self, size: int) -> None:
        """Frees `size` bytes. A negative size holds more, whether it fits or not."""
        with self._changed:
            self.held_bytes -= size
            self._changed.notify_all()

    def close(self) -> None:
        """Sends away who waits, and whoever comes later."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return self.held_bytes + size <= self._limit_bytes


@dataclass
class JobSlot:
    """What a job's next stages find in memory. What is None they read from the store."""

    job: Job | None = None
    picture: RgbImage | None = None
    found: ModelOutput | None = None
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    started_at: datetime | None = None
    published: bool = False
    left_out: int = 0
    """Segments that the model found and that are not kept."""
    held_bytes: int = 0
    users: int = 1


@dataclass(frozen=True)
class RunIdentity:
    """Which run it is, and over how many jobs. `run_key` is what it was asked for by; None if an
    operator asked."""

    run_id: str = ""
    run_key: str | None = None
    jobs: int = 0

    @property
    def may_be_blamed_on_its_job(self) -> bool:
        """Whether its worker's death would count against a job: one that is alone in a run that we
        asked for."""
        return self.run_key is not None and self.jobs == 1


class RunContext:
    """What belongs to one run. `on_the_way` are the pictures that somebody waits for."""

    def __init__(self, budget_bytes: int, encoders: Executor) -> None:
        self._identity = RunIdentity()
        self._planned: frozenset[str] = frozenset()
        self._outcomes: dict[tuple[str, str], Outcome] = {}
        self.cancelled: frozenset[str] = frozenset()
        self._writers = 0
        self._stopped = False
        self._writers_changed = threading.Condition()
        self.budget = MemoryBudget(budget_bytes)
        self.waiters = InheritingPool(WAITERS, "wait")
        self.evidence_writer = InheritingPool(1, "evidence")
        self._encoders = encoders
        self._encoding: list[Future[Any]] = []
        self.on_the_way: dict[str, Future[Any]] = {}
        # Not `futures.wait`: a cancel in the middle of it would leave the futures locked for ever.
        self._arrivals: SimpleQueue[str] = SimpleQueue()
        self._there: list[str] = []
        self._slots: dict[str, JobSlot] = {}
        self._output_budget_bytes = budget_bytes
        self._lock = threading.Lock()

    @property
    def identity(self) -> RunIdentity:
        """Which run it is."""
        return self._identity

    @property
    def planned(self) -> frozenset[str]:
        """The stages that the run has; nothing is done ahead for others."""
        return self._planned

    def begin(self, planned: Iterable[str], identity: RunIdentity | None = None) -> None:
        """Tells which stages the run has, and which run it is if that is news."""
        self._planned, self._identity = frozenset(planned), identity or self._identity

    def record(self, stage: str, uuid: str, outcome: Outcome) -> None:
        """Keeps what becomes of a stage of a job that was begun."""
        self._outcomes[stage, uuid] = outcome

    def has_outcome(self, stage: str, uuid: str) -> bool:
        """Whether that stage of the job was begun."""
        return (stage, uuid) in self._outcomes

    def take_outcomes(self, stage: str, uuids: Iterable[str]) -> dict[str, Outcome]:
        """What became of the jobs in a stage that was begun for each; it is forgotten here."""
        return {uuid: self._outcomes.pop((stage, uuid)) for uuid in uuids}

    def encode(self, uuid: str, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Has an encoder do the work for a job."""
        with about(uuid):
            future = self._encoders.submit(work, *arguments)
        self._encoding.append(future)
        return future

    def prepare(self, uuid: str, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Has a waiter do the work for a job."""
        with about(uuid):
            return self.waiters.submit(work, *arguments)

    def check(self, uuid: str) -> None:
        """Raises CancelledError once the run is stopped, and JobCancelled for a job that is wanted
        no more. To be called between steps that each take long."""
        if self._stopped:
            raise CancelledError("the run is over, and nobody needs what it still makes")
        if uuid in self.cancelled:
            raise JobCancelled(uuid)

    @contextmanager
    def writing(self, uuid: str) -> Iterator[None]:
        """To hold while a job's files are written; `end` waits for it. Raises as `check` does."""
        with self._writers_changed:
            self.check(uuid)
            self._writers += 1
        try:
            yield
        finally:
            with self._writers_changed:
                self._writers -= 1
                self._writers_changed.notify_all()

    def slot(self, uuid: str) -> JobSlot:
        """The job's slot, empty at first."""
        with self._lock:
            return self._slots.setdefault(uuid, JobSlot())

    def send_for(self, uuid: str, coming: Future[Any]) -> None:
        """Counts a picture among those on the way."""
        self.on_the_way[uuid] = coming
        coming.add_done_callback(lambda _: self._arrivals.put(uuid))

    def wait_for_arrivals(self) -> None:
        """Waits until at least one of the pictures on the way is there, or will not come."""
        if not self._there:
            self._there.append(self._arrivals.get())

    def take_arrivals(self, limit: int) -> dict[str, Future[Any]]:
        """Takes up to `limit` pictures that are there, or will not come, off the way."""
        with suppress(Empty):
            while True:
                self._there.append(self._arrivals.get_nowait())
        taken, self._there = self._there[:limit], self._there[limit:]
        return {uuid: self.on_the_way.pop(uuid) for uuid in taken}

    @contextmanager
    def holding(self, uuid: str, size: int) -> Iterator[JobSlot]:
        """Holds memory for a job's picture. It stays held if the block succeeds; `release` frees
        it."""
        slot = self.slot(uuid)
        self.budget.take(size)
        slot.held_bytes, slot.users = size, 1
        try:
            yield slot
        except BaseException:
            self.release(uuid)
            raise

    def keep_output(self, uuid: str, found: ModelOutput) -> None:
        """Keeps a job's segments in memory for its last stages, if they fit."""
        slot, size = self.slot(uuid), mask_bytes(found)
        with self._lock:
            if size <= self._output_budget_bytes:
                self._output_budget_bytes -= size
                slot.found = found

    def hold_more(self, uuid: str, size: int) -> None:
        """Counts what a job's picture has led to as part of it."""
        self.slot(uuid).held_bytes += size
        self.budget.give_back(-size)

    def retain(self, uuid: str, users: int) -> None:
        """The picture is held for `users` users, not for one."""
        self.slot(uuid).users = users

    def release(self, uuid: str) -> bool:
        """Frees the picture once the last of its users has released it. Says whether
        this was the last."""
        slot = self.slot(uuid)
        with self._lock:
            slot.users -= 1
            if slot.users > 0:
                return False
            size, slot.held_bytes, slot.picture = slot.held_bytes, 0, None
        self.budget.give_back(size)
        return True

    @contextmanager
    def timed(self, uuid: str, stage: str) -> Iterator[None]:
        """Adds the seconds of what happens inside to the job's account."""
        slot = self.slot(uuid)
        slot.started_at = slot.started_at or datetime.now(UTC)
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add_seconds(uuid, stage, time.perf_counter() - begin)

    def add_seconds(self, uuid: str, stage: str, seconds: float) -> None:
        """Adds to what a stage of a job took; where parts of it ran side by side, their sum."""
        slot = self.slot(uuid)
        with self._lock:
            slot.seconds[stage] += seconds

    def seconds(self, uuid: str, stage: str) -> float:
        """What a stage of a job took in this run, rounded to 0.1 ms."""
        return round(self.slot(uuid).seconds.get(stage, 0.0), 4)

    def timing(self, uuid: str) -> Timing:
        """The job's account, closed now."""
        now, slot = datetime.now(UTC), self.slot(uuid)
        return Timing(slot.started_at or now, now, dict(slot.seconds))

    def stop(self) -> None:
        """Begins nothing more. What is being fetched or encoded is dropped when it is there, what
        is being written is completed."""
        with self._writers_changed:
            self._stopped = True
        self.budget.close()
        self.waiters.shutdown(wait=False, cancel_futures=True)
        for future in self._encoding:
            future.cancel()

    def end(self) -> None:
        """Stops, and waits until nothing is written any more."""
        self.stop()
        with self._writers_changed:
            self._writers_changed.wait_for(lambda: not self._writers)
        self.evidence_writer.shutdown()


def mask_bytes(found: ModelOutput) -> int:
    """What the masks take in memory."""
    return sum(segment.mask.bits.nbytes for segment in found.segments)
