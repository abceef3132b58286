"""The state of the service, read from the store, for `/metrics` and the alarms.

Nothing here grows with the number of finished jobs. Waiting ones are listed, at most `LISTED` of
each kind.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from seg_pipeline.domain import Moment
from seg_pipeline.jobs.drain import Drain, read_drain
from seg_pipeline.jobs.heartbeats import live_workers, uuids_at_work
from seg_pipeline.jobs.markers import moment_of
from seg_pipeline.store import ObjectInfo, Store, keys
from seg_pipeline.store.serialization import load, write

LISTED = 20_000


@dataclass(frozen=True)
class QueueState:
    """How many of a kind wait, and for how long the first one has."""

    count: int = 0
    oldest_seconds: float = 0.0


@dataclass(frozen=True)
class AppServerState:
    """What the outbox relay knows of the app server: since when it is down, and why.

    `down_since` is None while it answers.
    """

    down_since: Moment | None = None
    problem: str | None = None


@dataclass(frozen=True)
class PruneState:
    """The last prune that ended, and how many removals failed."""

    ended_at: Moment
    failures: int = 0


@dataclass(frozen=True)
class ServiceState:
    """The service at one moment.

    `callbacks_due` counts the deliveries that are due, first attempts or not. `processing` counts
    the jobs that live workers name.
    """

    at: datetime
    waiting: QueueState
    in_flight: QueueState
    processing: int
    workers: int
    runs_in_hand: int
    callbacks_due: QueueState
    parked_messages: int
    parked_callbacks: int
    app_server: AppServerState
    prune: PruneState | None
    drain: Drain | None = None

    @property
    def oldest_job_seconds(self) -> float:
        """The longest wait of any job: for its picture, in the inbox or in a run."""
        return max(self.waiting.oldest_seconds, self.in_flight.oldest_seconds)

    @property
    def parked(self) -> int:
        """How many messages and callbacks somebody has to look at."""
        return self.parked_messages + self.parked_callbacks

    @property
    def app_server_down_seconds(self) -> float:
        """The seconds since the app server went down; 0 if it answers, or was not asked yet."""
        since = self.app_server.down_since
        return max(0.0, (self.at - since).total_seconds()) if since else 0.0


def read_service_state(
    store: Store, stale_seconds: float, now: datetime | None = None
) -> ServiceState:
    """Reads everything once. Raises StoreUnavailable."""
    moment = now or datetime.now(UTC)
    prefixes = (keys.FETCHING, keys.INBOX, keys.INFLIGHT, keys.OUTBOX, keys.PARKED)
    listings: list[Callable[[], list[ObjectInfo]]] = [
        partial(store.list, prefix, None, LISTED) for prefix in prefixes
    ]
    fetching, inbox, inflight, outbox, parked = store.at_once(listings)
    workers = live_workers(store, moment, stale_seconds)
    callbacks = sum(keys.is_parked_callback(info.key) for info in parked)
    return ServiceState(
        at=moment,
        waiting=_waiting([*fetching, *inbox], moment),
        in_flight=_waiting(inflight, moment),
        processing=len(uuids_at_work(workers)),
        workers=len(workers),
        runs_in_hand=sum(heartbeat.run_id is not None for heartbeat in workers),
        callbacks_due=_due(outbox, moment),
        parked_messages=len(parked) - callbacks,
        parked_callbacks=callbacks,
        app_server=read_app_server_state(store),
        prune=read_prune_state(store),
        drain=read_drain(store, moment),
    )


def note_app_server_state(store: Store, state: AppServerState) -> None:
    """Writes the relay's view of the app server. Call it on changes."""
    store.put(keys.APP_SERVER_STATE, write(state))


def read_app_server_state(store: Store) -> AppServerState:
    """What the relay wrote last."""
    return load(store, AppServerState, keys.APP_SERVER_STATE) or AppServerState()


def note_prune(store: Store, state: PruneState) -> None:
    """Writes that a prune has ended."""
    store.put(keys.PRUNE_STATE, write(state))


def note_first_start(store: Store, now: datetime) -> None:
    """Starts the wait for the first prune, if none has ever ended."""
    store.create(keys.PRUNE_STATE, write(PruneState(now)))


def read_prune_state(store: Store) -> PruneState | None:
    """The last prune; None if none has ended yet."""
    return load(store, PruneState, keys.PRUNE_STATE)


def _waiting(infos: Sequence[ObjectInfo], now: datetime) -> QueueState:
    if not infos:
        return QueueState()
    first = min(info.last_modified for info in infos)
    return QueueState(len(infos), max(0.0, (now - first).total_seconds()))


def _due(infos: Sequence[ObjectInfo], now: datetime) -> QueueState:
    """Deliveries that are due."""
    markers = (keys.due_of(info.key) for info in infos)
    due = [at for marker in markers if marker and (at := moment_of(marker[0])) <= now]
    return QueueState(len(due), (now - min(due)).total_seconds()) if due else QueueState()
