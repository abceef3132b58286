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

from seg_pipeline.domain import Job, Lane, RgbImage
from seg_pipeline.errors import JobCancelled
from seg_pipeline.jobs.model_output import ModelOutput
from seg_pipeline.jobs.records import Timing
from seg_pipeline.pipeline.stage_names import StageName
from seg_pipeline.telemetry.logs import InheritingPool, about

T = TypeVar("T")

WAITERS = 8
ENCODERS = max(2, os.cpu_count() or 1)
ENCODERS_PAUSE_SECONDS = 0.005


def make_encoders() -> ThreadPoolExecutor:
    """Encoding threads that outlive the runs: OpenCV takes some 12 ms to set itself up in each."""
    return InheritingPool(ENCODERS, "encode")


Outcome = Callable[[], dict[str, Any]]
"""The outcome of a job's stage: waits for it, then returns the metadata or raises the error."""


class LeftToAnotherRun(Exception):
    """The run gave way before it began the job, which is to wait for another."""


class MemoryBudget:
    """A limit on the bytes held at once.

    A thread that wants more waits until others release theirs.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.held_bytes = 0
        self._limit_bytes = limit_bytes
        self._closed = False
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        """Holds `size` more bytes once they fit.

        A size above the limit waits until nothing is held.

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
        """Wakes every waiting thread with CancelledError, and refuses all later ones."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return self.held_bytes + size <= self._limit_bytes


@dataclass
class JobSlot:
    """What a job's next stages find in memory. They read whatever is None from the store."""

    job: Job | None = None
    picture: RgbImage | None = None
    output: ModelOutput | None = None
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    started_at: datetime | None = None
    published: bool = False
    left_out: int = 0
    """The number of segments that the model returned and the service dropped."""
    held_bytes: int = 0
    users: int = 1


@dataclass(frozen=True)
class RunIdentity:
    """Which run this is, and over how many jobs.

    `run_key` is the key that the run was requested with. It is None if an operator started the run.
    """

    run_id: str = ""
    run_key: str | None = None
    jobs: int = 0
    lane: Lane = Lane.SINGLE

    @property
    def may_be_blamed_on_its_job(self) -> bool:
        """Whether its worker's death counts against the job: the run was requested for it alone."""
        return self.run_key is not None and self.jobs == 1

    @property
    def may_give_way(self) -> bool:
        """Whether it may leave jobs to a later run: a sensor requested it, for several."""
        return self.run_key is not None and self.jobs > 1 and self.lane is not Lane.SINGLE


class RunContext:
    """The state of one run. `on_the_way` holds the pictures that the next stage waits for."""

    def __init__(self, budget_bytes: int, encoders: Executor) -> None:
        self._identity = RunIdentity()
        self._planned: frozenset[str] = frozenset()
        self._outcomes: dict[tuple[str, str], Outcome] = {}
        self.cancelled: frozenset[str] = frozenset()
        self.given_back: frozenset[str] = frozenset()
        self.has_called_a_model = False
        self._writers = 0
        self._stopped = False
        self._writers_changed = threading.Condition()
        self.budget = MemoryBudget(budget_bytes)
        self.waiters = InheritingPool(WAITERS, "wait")
        self.evidence_writer = InheritingPool(1, "evidence")
        self._encoders = encoders
        self._encoding: list[Future[Any]] = []
        self.on_the_way: dict[str, Future[Any]] = {}
        # `futures.wait` is no choice: a cancel in the middle of it would leave the futures locked.
        self._arrivals: SimpleQueue[str] = SimpleQueue()
        self._there: list[str] = []
        self._slots: dict[str, JobSlot] = {}
        self._output_budget_bytes = budget_bytes
        self._lock = threading.Lock()

    @property
    def identity(self) -> RunIdentity:
        """The identity of the run."""
        return self._identity

    @property
    def planned(self) -> frozenset[str]:
        """The stages that the run has. No stage outside this set is begun early."""
        return self._planned

    def begin(self, planned: Iterable[str], identity: RunIdentity | None = None) -> None:
        """Sets the stages of the run, and its identity if one is given."""
        self._planned, self._identity = frozenset(planned), identity or self._identity

    def record(self, stage: StageName, uuid: str, outcome: Outcome) -> None:
        """Records the outcome of a stage that was begun for a job."""
        self._outcomes[stage, uuid] = outcome

    def has_outcome(self, stage: StageName, uuid: str) -> bool:
        """Whether that stage was begun for the job."""
        return (stage, uuid) in self._outcomes

    def take_outcomes(self, stage: StageName, uuids: Iterable[str]) -> dict[str, Outcome]:
        """The outcomes of a stage that was begun for each of these jobs. The run forgets them."""
        return {uuid: self._outcomes.pop((stage, uuid)) for uuid in uuids}

    def encode(self, uuid: str, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Runs the work for a job on an encoder."""
        with about(uuid):
            future = self._encoders.submit(work, *arguments)
        self._encoding.append(future)
        return future

    def wait_for_encoders(self, limit: int) -> None:
        """Waits until no more than so many pieces of work wait for an encoder, or are at one."""
        while len(self._encoding) > limit:
            self._encoding = [future for future in self._encoding if not future.done()]
            if len(self._encoding) > limit:
                time.sleep(ENCODERS_PAUSE_SECONDS)

    def prepare(self, uuid: str, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Runs the work for a job on a waiter."""
        with about(uuid):
            return self.waiters.submit(work, *arguments)

    def check(self, uuid: str) -> None:
        """Raises CancelledError once the run is stopped, JobCancelled for a cancelled job, and
        LeftToAnotherRun for one that is.

        Call it between steps that each take long.
        """
        if self._stopped:
            raise CancelledError("the run is over, and nobody needs what it still makes")
        if uuid in self.cancelled:
            raise JobCancelled(uuid)
        if uuid in self.given_back:
            raise LeftToAnotherRun(uuid)

    def give_way(self) -> None:
        """Leaves the pictures that are on the way, or have come and wait, to a later run."""
        self.given_back |= frozenset(self.on_the_way)

    @contextmanager
    def writing(self, uuid: str) -> Iterator[None]:
        """Hold this while a job's files are written: `end` waits for it. Raises as `check` does."""
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
        """Adds a picture to those on the way. `coming` is the read that will bring it."""
        self.on_the_way[uuid] = coming
        coming.add_done_callback(lambda _: self._arrivals.put(uuid))

    def wait_for_arrivals(self) -> None:
        """Waits until at least one picture on the way has arrived or failed."""
        if not self._there:
            self._there.append(self._arrivals.get())

    def take_arrivals(self, limit: int) -> dict[str, Future[Any]]:
        """Removes and returns up to `limit` pictures that have arrived or failed."""
        with suppress(Empty):
            while True:
                self._there.append(self._arrivals.get_nowait())
        taken, self._there = self._there[:limit], self._there[limit:]
        return {uuid: self.on_the_way.pop(uuid) for uuid in taken}

    @contextmanager
    def holding(self, uuid: str, size: int) -> Iterator[JobSlot]:
        """Holds memory for a job's picture.

        It stays held if the block succeeds; `release` frees it.
        """
        slot = self.slot(uuid)
        self.budget.take(size)
        slot.held_bytes, slot.users = size, 1
        try:
            yield slot
        except BaseException:
            self.release(uuid)
            raise

    def keep_output(self, uuid: str, output: ModelOutput) -> None:
        """Keeps a job's segments in memory for its last stages, if they fit."""
        slot, size = self.slot(uuid), mask_bytes(output)
        with self._lock:
            if size <= self._output_budget_bytes:
                self._output_budget_bytes -= size
                slot.output = output

    def hold_more(self, uuid: str, size: int) -> None:
        """Adds memory that came of a job's picture to what is held for it."""
        self.slot(uuid).held_bytes += size
        self.budget.give_back(-size)

    def retain(self, uuid: str, users: int) -> None:
        """Holds the picture for `users` users instead of one."""
        self.slot(uuid).users = users

    def release(self, uuid: str) -> bool:
        """Frees the picture when its last user releases it. Returns whether this was the last."""
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
        """Adds the seconds that the block takes to the job's timing."""
        slot = self.slot(uuid)
        slot.started_at = slot.started_at or datetime.now(UTC)
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add_seconds(uuid, stage, time.perf_counter() - begin)

    def add_seconds(self, uuid: str, stage: str, seconds: float) -> None:
        """Adds to the seconds of a job's stage. Parts that ran side by side add up."""
        slot = self.slot(uuid)
        with self._lock:
            slot.seconds[stage] += seconds

    def seconds(self, uuid: str, stage: str) -> float:
        """The seconds that a job's stage took in this run, rounded to 0.1 ms."""
        return round(self.slot(uuid).seconds.get(stage, 0.0), 4)

    def timing(self, uuid: str) -> Timing:
        """The job's timing up to now."""
        now, slot = datetime.now(UTC), self.slot(uuid)
        return Timing(slot.started_at or now, now, dict(slot.seconds))

    def stop(self) -> None:
        """Begins nothing more.

        Reading and encoding under way is dropped when it is done. Writing under way is completed.
        """
        with self._writers_changed:
            self._stopped = True
        self.budget.close()
        self.waiters.shutdown(wait=False, cancel_futures=True)
        for future in self._encoding:
            future.cancel()

    def end(self) -> None:
        """Stops the run, and waits until the last file is written."""
        self.stop()
        with self._writers_changed:
            self._writers_changed.wait_for(lambda: not self._writers)
        self.evidence_writer.shutdown()


def mask_bytes(output: ModelOutput) -> int:
    """The bytes that the masks take in memory."""
    return sum(segment.mask.bits.nbytes for segment in output.segments)
