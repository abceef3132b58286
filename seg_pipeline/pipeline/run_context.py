"""One run's assembly line: what its jobs leave in memory from stage to stage, and the threads
beside the model's.

The thread that executes the run has the model, because a cancel reaches that thread alone.
Meanwhile *waiters* fetch and decode what comes next, and *encoders* write what was found. Only
waiters ever wait for room, and nothing that makes room runs on them: so the line cannot stand
still.
"""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from seg_pipeline.domain import Job, RgbImage
from seg_pipeline.errors import JobCancelled
from seg_pipeline.jobs.result_document import Found, Timing
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


class Room:
    """So many bytes may be held at once: whoever wants more waits until others have let go of
    theirs."""

    def __init__(self, limit_bytes: int) -> None:
        self.held_bytes = 0
        self._limit_bytes = limit_bytes
        self._closed = False
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        """Holds so many more bytes, once there is room; what is larger than all the room waits
        until it is empty.

        Raises CancelledError as soon as the room is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self.held_bytes or self._fits(size))
            if self._closed:
                raise CancelledError("the run is over, and nobody needs its pictures any more")
            self.held_bytes += size

    def give_back(self, size: int) -> None:
        """Lets others have them; a negative size holds more, room or not."""
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
class Piece:
    """A job on the line: what its next stages find in memory. What is None they read from the
    store."""

    job: Job | None = None
    picture: RgbImage | None = None
    found: Found | None = None
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    started_at: datetime | None = None
    published: bool = False
    left_out: int = 0
    """Segments that the model found and that are not kept."""
    held_bytes: int = 0
    users: int = 1


@dataclass(frozen=True)
class RunInHand:
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


class Line:
    """What belongs to one run. `planned` names the stages that the run has; of others nothing is
    done ahead.

    `outcomes` are of stages that were begun, by stage and uuid; `on_the_way` are the pictures that
    somebody waits for.
    """

    def __init__(self, room_bytes: int, encoders: Executor) -> None:
        self.run = RunInHand()
        self.cancelled: frozenset[str] = frozenset()
        self._writers = 0
        self._stopped = False
        self._writers_changed = threading.Condition()
        self.planned: frozenset[str] = frozenset()
        self.room = Room(room_bytes)
        self.waiters = InheritingPool(WAITERS, "wait")
        self.evidence_writer = InheritingPool(1, "evidence")
        self._encoders = encoders
        self._encoding: list[Future[Any]] = []
        self.outcomes: dict[tuple[str, str], Outcome] = {}
        self.on_the_way: dict[str, Future[Any]] = {}
        # Not `futures.wait`: a cancel in the middle of it would leave the futures locked for ever.
        self._arrivals: SimpleQueue[str] = SimpleQueue()
        self._there: list[str] = []
        self._pieces: dict[str, Piece] = {}
        self._found_room_bytes = room_bytes
        self._lock = threading.Lock()

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
        """Raises CancelledError once the line is stopped, and JobCancelled for a job that is wanted
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

    def piece(self, uuid: str) -> Piece:
        """The job's piece, empty at first."""
        with self._lock:
            return self._pieces.setdefault(uuid, Piece())

    def send_for(self, uuid: str, coming: Future[Any]) -> None:
        """Puts a picture on the way."""
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
    def holding(self, uuid: str, size: int) -> Iterator[Piece]:
        """Takes room for a job's picture, and keeps it if all goes well inside: then `let_go` gives
        it back."""
        piece = self.piece(uuid)
        self.room.take(size)
        piece.held_bytes, piece.users = size, 1
        try:
            yield piece
        except BaseException:
            self.let_go(uuid)
            raise

    def keep_found(self, uuid: str, found: Found) -> None:
        """Leaves a job's segments for its last stages, as far as there is room."""
        piece, size = self.piece(uuid), mask_bytes(found)
        with self._lock:
            if size <= self._found_room_bytes:
                self._found_room_bytes -= size
                piece.found = found

    def hold_more(self, uuid: str, size: int) -> None:
        """Counts what a job's picture has led to as part of it."""
        self.piece(uuid).held_bytes += size
        self.room.give_back(-size)

    def share(self, uuid: str, users: int) -> None:
        """So many will let go of the picture, not one."""
        self.piece(uuid).users = users

    def let_go(self, uuid: str) -> bool:
        """The picture goes, and its room is free, when the last of its users has said so; whether
        this was the last."""
        piece = self.piece(uuid)
        with self._lock:
            piece.users -= 1
            if piece.users > 0:
                return False
            size, piece.held_bytes, piece.picture = piece.held_bytes, 0, None
        self.room.give_back(size)
        return True

    @contextmanager
    def timed(self, uuid: str, stage: str) -> Iterator[None]:
        """Adds the seconds of what happens inside to the job's account."""
        piece = self.piece(uuid)
        piece.started_at = piece.started_at or datetime.now(UTC)
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add_seconds(uuid, stage, time.perf_counter() - begin)

    def add_seconds(self, uuid: str, stage: str, seconds: float) -> None:
        """Adds to what a stage of a job took; where parts of it ran side by side, their sum."""
        piece = self.piece(uuid)
        with self._lock:
            piece.seconds[stage] += seconds

    def seconds(self, uuid: str, stage: str) -> float:
        """What a stage of a job took in this run, rounded to 0.1 ms."""
        return round(self.piece(uuid).seconds.get(stage, 0.0), 4)

    def timing(self, uuid: str) -> Timing:
        """The job's account, closed now."""
        now, piece = datetime.now(UTC), self.piece(uuid)
        return Timing(piece.started_at or now, now, dict(piece.seconds))

    def stop(self) -> None:
        """Begins nothing more. What is being fetched or encoded is dropped when it is there, what
        is being written is completed."""
        with self._writers_changed:
            self._stopped = True
        self.room.close()
        self.waiters.shutdown(wait=False, cancel_futures=True)
        for future in self._encoding:
            future.cancel()

    def end(self) -> None:
        """Stops, and waits until nothing is written any more."""
        self.stop()
        with self._writers_changed:
            self._writers_changed.wait_for(lambda: not self._writers)
        self.evidence_writer.shutdown()


def mask_bytes(found: Found) -> int:
    """What the masks take in memory."""
    return sum(segment.mask.bits.nbytes for segment in found.segments)
