"""Heartbeats in the store: the API and recovery need no Dagster and no broker to see who lives."""

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from seg_pipeline.domain import Moment
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import load, write


@dataclass(frozen=True)
class Heartbeat:
    """That a process lived at `beat_at`, and where."""

    name: str
    pid: int
    host: str
    beat_at: Moment

    def is_live(self, now: datetime, stale_seconds: float) -> bool:
        """Whether it beat within `stale_seconds`.

        A clock that runs ahead of ours does not count against it.
        """
        return now - self.beat_at <= timedelta(seconds=stale_seconds)


HeartbeatT = TypeVar("HeartbeatT", bound=Heartbeat)


@dataclass(frozen=True)
class WorkerHeartbeat(Heartbeat):
    """What a worker was doing at `beat_at`.

    It names the run and the jobs that the worker works on, and the models in its memory. `problem`
    is a sentence that says why it can do nothing: such a worker is not idle.
    """

    started_at: Moment
    run_id: str | None = None
    uuids: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    idle_since: Moment | None = None
    problem: str | None = None


@dataclass(frozen=True)
class FetcherHeartbeat(Heartbeat):
    """A fetcher's heartbeat, with the number of pictures that it was fetching."""

    fetching: int = 0


def write_heartbeat(store: Store, heartbeat: WorkerHeartbeat) -> None:
    """Replaces the worker's last heartbeat."""
    store.put(keys.worker(heartbeat.name), write(heartbeat))


def remove_heartbeat(store: Store, name: str) -> None:
    """Ends the worker's heartbeat; for a worker that ends in good order."""
    store.delete(keys.worker(name))


def all_workers(store: Store) -> list[WorkerHeartbeat]:
    """Every worker with a heartbeat, dead ones too, by name; unreadable ones are left out."""
    return _all(store, WorkerHeartbeat, keys.WORKERS)


def live_workers(
    store: Store, now: datetime | None = None, stale_seconds: float = 15
) -> list[WorkerHeartbeat]:
    """The workers that beat within `stale_seconds`, by name."""
    return _live(all_workers(store), now, stale_seconds)


def uuids_at_work(heartbeats: Iterable[WorkerHeartbeat]) -> set[str]:
    """The jobs that these workers work on."""
    return {uuid for heartbeat in heartbeats for uuid in heartbeat.uuids}


def write_fetcher_heartbeat(store: Store, heartbeat: FetcherHeartbeat) -> None:
    """Replaces the fetcher's last heartbeat."""
    store.put(keys.fetcher(heartbeat.name), write(heartbeat))


def remove_fetcher_heartbeat(store: Store, name: str) -> None:
    """Ends the fetcher's heartbeat; for one that ends in good order, or has long been dead."""
    store.delete(keys.fetcher(name))


def all_fetchers(store: Store) -> list[FetcherHeartbeat]:
    """Every fetcher with a heartbeat, dead ones too, by name."""
    return _all(store, FetcherHeartbeat, keys.FETCHERS)


def live_fetchers(
    store: Store, now: datetime | None = None, stale_seconds: float = 15
) -> list[FetcherHeartbeat]:
    """The fetchers that beat within `stale_seconds`, by name."""
    return _live(all_fetchers(store), now, stale_seconds)


def write_upkeep_heartbeat(store: Store, run_id: str, pid: int) -> None:
    """Says that this process of this host executes the run of upkeep, and lives."""
    heartbeat = Heartbeat(run_id, pid, socket.gethostname(), datetime.now(UTC))
    store.put(keys.upkeep(run_id), write(heartbeat))


def remove_upkeep_heartbeat(store: Store, run_id: str) -> None:
    """Ends the heartbeat of a run of upkeep."""
    store.delete(keys.upkeep(run_id))


def all_upkeep(store: Store) -> list[Heartbeat]:
    """Every run of upkeep with a heartbeat, dead ones too; `name` is the run's id."""
    return _all(store, Heartbeat, keys.UPKEEP)


def _all(store: Store, kind: type[HeartbeatT], prefix: str) -> list[HeartbeatT]:
    heartbeats = (load(store, kind, info.key) for info in store.list(prefix))
    return [heartbeat for heartbeat in heartbeats if heartbeat]


def _live(
    heartbeats: Iterable[HeartbeatT], now: datetime | None, stale_seconds: float
) -> list[HeartbeatT]:
    moment = now or datetime.now(UTC)
    return [heartbeat for heartbeat in heartbeats if heartbeat.is_live(moment, stale_seconds)]


def died_here(heartbeat: Heartbeat) -> bool:
    """Whether its process was on this host and is gone: then nobody need wait until it is stale."""
    return heartbeat.host == socket.gethostname() and not is_alive(heartbeat.pid)


def is_alive(pid: int) -> bool:
    """Whether this host has a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
