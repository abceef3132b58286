"""Where jobs stand, for those who listen: one look at the store for all of them.

What a listener gets are states, not a log: of states that follow one another quickly it may get the
last alone. So nothing is kept for it, and it can come back at any time.
"""

import asyncio
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from seg_pipeline.errors import JobNotFound, StoreError
from seg_pipeline.jobs.markers import marker_name, microseconds
from seg_pipeline.jobs.progress import MARK_SECONDS, Progress, mark_listeners
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import keys
from seg_pipeline.store.serialization import load

log = logging.getLogger(__name__)

PAUSES_SECONDS = 0.04, 0.1
"""Between two looks at the store, the shortest and the longest: longer after a look that took long.
"""

SHARE = 3
FAILED_PAUSE_SECONDS = 1.0
NET_SECONDS = 2.0
"""A job whose progress has not changed for so long is looked up: it may have ended otherwise."""


@dataclass(frozen=True)
class JobState:
    """Where a job stands: the data of an event, and an id that is the same for the same state."""

    id: str
    data: Mapping[str, Any]
    is_last: bool = False

    def encoded(self) -> bytes:
        """The event (HTML Standard, section 9.2.5)."""
        name = "end" if self.is_last else "progress"
        data = json.dumps(self.data, separators=(",", ":"))
        return f"id: {self.id}\nevent: {name}\ndata: {data}\n\n".encode()


@dataclass(eq=False)
class Listener:
    """One listener: the last state that it has not taken."""

    _state: JobState | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    is_closed: bool = False

    def put(self, state: JobState) -> None:
        """Replaces what was not taken."""
        self._state = state
        self._news.set()

    def close(self) -> None:
        """Ends the wait, since the service ends."""
        self.is_closed = True
        self._news.set()

    def has_only(self, last_id: str) -> bool:
        """Whether there is only the job's last state, and the client has it."""
        return self._state is not None and self._state.is_last and self._state.id == last_id

    async def next(self, seconds: float) -> JobState | None:
        """The next state; None if there is none within so many seconds, or when it is closed."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return None
        self._news.clear()
        state, self._state = self._state, None
        return state


@dataclass(eq=False)
class _Watch:
    """A job that somebody listens to. `tag` is that of the progress that its state was made of."""

    state: JobState
    tag: str | None = None
    looked_at: float = field(default_factory=time.monotonic)
    listeners: set[Listener] = field(default_factory=set)


@dataclass(frozen=True)
class _Seen:
    state: JobState
    tag: str | None


class EventHub:
    """Looks at all jobs that are listened to, in one task, while there are any."""

    def __init__(
        self,
        repository: JobRepository,
        closing: asyncio.Event,
        looks_at_once: int,
        live_uuids: Callable[[], Collection[str]] = lambda: (),
    ) -> None:
        self._repository, self._closing = repository, closing
        self._looks_at_once, self._live_uuids = looks_at_once, live_uuids
        self._marked_at = -math.inf
        self._watches: dict[str, _Watch] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def jobs(self) -> int:
        """How many jobs are listened to."""
        return len(self._watches)

    @asynccontextmanager
    async def listen(self, uuid: str) -> AsyncIterator[Listener]:
        """A listener to a job, which begins with its present state. Raises JobNotFound."""
        listener = Listener()
        watch = await self._watch(uuid)
        listener.put(watch.state)
        watch.listeners.add(listener)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        try:
            yield listener
        finally:
            watch.listeners.discard(listener)
            if not watch.listeners and self._watches.get(uuid) is watch:
                del self._watches[uuid]

    async def _watch(self, uuid: str) -> _Watch:
        if uuid not in self._watches:
            seen = await asyncio.to_thread(self._first_look, uuid)
            if seen.state.data["status"] == "deleted":
                raise JobNotFound(uuid)
            self._watches.setdefault(uuid, _Watch(seen.state, seen.tag))
        return self._watches[uuid]

    async def _run(self) -> None:
        while self._watches and not self._closing.is_set():
            began = time.monotonic()
            try:
                self._tell(await asyncio.to_thread(self._scan, dict(self._watches)))
                shortest, longest = PAUSES_SECONDS
                pause = min(longest, max(shortest, SHARE * (time.monotonic() - began)))
            except StoreError as error:
                log.warning("where jobs stand cannot be read: %s", error)
                pause = FAILED_PAUSE_SECONDS
            except Exception:  # else all listeners would wait in silence
                log.exception("where jobs stand cannot be read")
                pause = FAILED_PAUSE_SECONDS
            await asyncio.sleep(pause)
        if self._closing.is_set():
            for watch in self._watches.values():
                for listener in watch.listeners:
                    listener.close()

    def _tell(self, found: Mapping[str, _Seen]) -> None:
        for uuid, seen in found.items():
            watch = self._watches.get(uuid)
            if watch is None:
                continue
            watch.tag, watch.looked_at = seen.tag, time.monotonic()
            if seen.state.id != watch.state.id and not _is_behind(seen.state, watch.state):
                watch.state = seen.state
                for listener in watch.listeners:
                    listener.put(seen.state)

    def _scan(self, watches: Mapping[str, _Watch]) -> dict[str, _Seen]:
        """What has changed, and some of what might have; blocking.

        A job with progress costs nothing until that changes. The others are looked up in turns.
        """
        self._mark()
        store = self._repository.store
        progress = {marker_name(info): info.tag for info in store.list(keys.PROGRESS)}
        wanted = [uuid for uuid, watch in watches.items() if _is_due(watch, progress.get(uuid))]
        wanted.sort(key=lambda uuid: (watches[uuid].tag is None, watches[uuid].looked_at))
        some = wanted[: self._looks_at_once]
        return dict(
            zip(some, store.at_once([partial(self._look, each) for each in some]), strict=True)
        )

    def _mark(self) -> None:
        """Has the workers write their notes."""
        now = time.monotonic()
        if now - self._marked_at >= MARK_SECONDS:
            mark_listeners(self._repository.store)
            self._marked_at = now

    def _first_look(self, uuid: str) -> _Seen:
        """Where the job stands before its worker knows that somebody listens; blocking."""
        self._mark()
        seen = self._look(uuid)
        if seen.state.id == "queued" and uuid in self._live_uuids():
            return _Seen(JobState("processing", {"uuid": uuid, "status": "processing"}), None)
        return seen

    def _look(self, uuid: str) -> _Seen:
        """Where the job stands; blocking."""
        store = self._repository.store
        info = store.head(keys.progress(uuid))
        result = self._repository.result(uuid)
        if result is not None:
            return _Seen(_ended(uuid, result), None)
        noted = load(store, Progress, keys.progress(uuid)) if info else None
        if info and noted:
            return _Seen(_in_progress(uuid, noted), info.tag)
        is_known = store.head(keys.request(uuid)) is not None
        data = {"uuid": uuid, "status": "queued" if is_known else "deleted"}
        return _Seen(JobState(str(data["status"]), data, is_last=not is_known), None)


def _is_due(watch: _Watch, tag: str | None) -> bool:
    """Whether the job is to be looked up."""
    if tag is None or tag != watch.tag:
        return not watch.state.is_last
    return time.monotonic() - watch.looked_at > NET_SECONDS


def _is_behind(state: JobState, known: JobState) -> bool:
    """Whether a state says less than is known: a worker has the job, and no note yet."""
    return (state.id, known.id) == ("queued", "processing")


def _ended(uuid: str, result: Any) -> JobState:
    data: dict[str, Any] = {"uuid": uuid, "status": str(result.status)}
    if result.error:
        data["error"] = {"code": result.error.code, "message": result.error.message}
    else:
        data["segments"] = len(result.segments)
    return JobState(f"{result.status}-{microseconds(result.completed_at)}", data, is_last=True)


def _in_progress(uuid: str, progress: Progress) -> JobState:
    data: dict[str, Any] = {"uuid": uuid, "status": "processing", "stage": progress.stage}
    if progress.total is not None:
        data |= {"done": progress.done, "total": progress.total}
    return JobState(f"processing-{microseconds(progress.at)}", data)
