"""Workers say in the store that they live, so that the API and the sweeper see it without Dagster
or the broker."""

import json
import os
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from seg_pipeline.errors import ObjectNotFound
from seg_pipeline.store import Store, keys

_TIMES = ("beat_at", "idle_since", "started_at")


@dataclass(frozen=True)
class WorkerHeartbeat:
    """What a worker was doing at `beat_at`: the run and the jobs it works on, and the models it
    holds in memory.

    `problem` is a sentence that says why it can do nothing; such a worker is not idle.
    """

    name: str
    pid: int
    host: str
    beat_at: datetime
    started_at: datetime
    run_id: str | None = None
    uuids: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    idle_since: datetime | None = None
    problem: str | None = None

    def is_live(self, now: datetime, stale_seconds: float) -> bool:
        """Whether it was heard of within `stale_seconds`; a clock that runs ahead of ours does not
        count against it."""
        return now - self.beat_at <= timedelta(seconds=stale_seconds)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        times = {
            name: moment and moment.isoformat()
            for name in _TIMES
            for moment in [getattr(self, name)]
        }
        return {**asdict(self), "uuids": [*self.uuids], "models": [*self.models], **times}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """The heartbeat that `to_json` wrote; unknown keys of newer versions are ignored."""
        known = {name: document[name] for name in cls.__dataclass_fields__ if name in document}
        times = {
            name: moment and datetime.fromisoformat(moment)
            for name in _TIMES
            for moment in [known.get(name)]
        }
        lists = {name: tuple(known.get(name, ())) for name in ("uuids", "models")}
        return cls(**{**known, **times, **lists})


def write_beat(store: Store, heartbeat: WorkerHeartbeat) -> None:
    """Replaces the worker's last heartbeat."""
    store.put(keys.worker(heartbeat.name), json.dumps(heartbeat.to_json()).encode())


def remove_beat(store: Store, name: str) -> None:
    """For a worker that ends in good order: it is not live from now on."""
    store.delete(keys.worker(name))


def all_workers(store: Store) -> list[WorkerHeartbeat]:
    """Every worker that has not said goodbye, dead ones too, by name; what cannot be read is left
    out."""
    heartbeats = (_read(store, info.key) for info in store.list(keys.WORKERS))
    return [heartbeat for heartbeat in heartbeats if heartbeat]


def live_workers(
    store: Store, now: datetime | None = None, stale_seconds: float = 15
) -> list[WorkerHeartbeat]:
    """The workers heard of within `stale_seconds`, by name."""
    moment = now or datetime.now(UTC)
    return [
        heartbeat for heartbeat in all_workers(store) if heartbeat.is_live(moment, stale_seconds)
    ]


@dataclass(frozen=True)
class FetcherHeartbeat:
    """A fetcher's sign of life, and how many pictures it had in hand then."""

    name: str
    pid: int
    host: str
    beat_at: datetime
    fetching: int = 0


def write_fetcher_beat(store: Store, heartbeat: FetcherHeartbeat) -> None:
    """Replaces the fetcher's last heartbeat."""
    store.put(
        keys.fetcher(heartbeat.name),
        json.dumps({**asdict(heartbeat), "beat_at": heartbeat.beat_at.isoformat()}).encode(),
    )


def remove_fetcher_beat(store: Store, name: str) -> None:
    """For a fetcher that ends in good order, or is dead for long."""
    store.delete(keys.fetcher(name))


def all_fetchers(store: Store) -> list[FetcherHeartbeat]:
    """Every fetcher that has not said goodbye, dead ones too, by name."""
    heartbeats = (_read_fetcher(store, info.key) for info in store.list(keys.FETCHERS))
    return [heartbeat for heartbeat in heartbeats if heartbeat]


def live_fetchers(
    store: Store, now: datetime | None = None, stale_seconds: float = 15
) -> list[FetcherHeartbeat]:
    """The fetchers heard of within `stale_seconds`, by name."""
    oldest = (now or datetime.now(UTC)) - timedelta(seconds=stale_seconds)
    return [heartbeat for heartbeat in all_fetchers(store) if heartbeat.beat_at >= oldest]


def died_here(heartbeat: WorkerHeartbeat | FetcherHeartbeat) -> bool:
    """Whether it is of a process of this host that is gone, so that nobody need wait for it to grow
    stale."""
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


def _read_fetcher(store: Store, key: str) -> FetcherHeartbeat | None:
    try:
        document = json.loads(store.get(key))
        known = {name: document[name] for name in FetcherHeartbeat.__dataclass_fields__}
        return FetcherHeartbeat(**{**known, "beat_at": datetime.fromisoformat(document["beat_at"])})
    except (ObjectNotFound, ValueError, TypeError, KeyError):
        return None


def _read(store: Store, key: str) -> WorkerHeartbeat | None:
    try:
        return WorkerHeartbeat.from_json(json.loads(store.get(key)))
    except (ObjectNotFound, ValueError, TypeError, KeyError):
        return None  # it said goodbye, or a power cut left its file empty
