"""The processes' metrics in the store, and their sum, which never falls when a process ends.

    write   metrics/{process}
            by each process, every few seconds, if something changed
    fold    metrics-past/{n+1} → no metrics-past/{n} → no metrics/{process}
            by the prune, for the processes that ended

`metrics-past/{n}` holds the sum of the ended processes, and their names. A process whose file is
still there is so not counted twice. Each fold creates the next number by a conditional write, so of
two folds at once only one counts. A killed process loses what it counted since its last write.
"""

import logging
import os
import secrets
import socket
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any

from prometheus_client import CollectorRegistry
from pydantic import Field, PlainSerializer, PlainValidator

from seg_pipeline.domain import Moment
from seg_pipeline.errors import ObjectNotFound, StoreError
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import load, read, write
from seg_pipeline.telemetry import metrics

logger = logging.getLogger(__name__)

Labels = tuple[tuple[str, str], ...]


def _to_list(samples: "Samples") -> list[list[Any]]:
    return [[name, dict(labels), value] for (name, labels), value in samples.items()]


def _to_samples(listed: Iterable[Any]) -> dict[tuple[str, Labels], float]:
    return {(name, tuple(sorted(labels.items()))): float(value) for name, labels, value in listed}


Samples = Annotated[
    Mapping[tuple[str, Labels], float], PlainSerializer(_to_list), PlainValidator(_to_samples)
]
"""Values by sample name (`seg_jobs_accepted_total`) and labels."""

REWRITTEN_AFTER = timedelta(minutes=5)
"""A process writes unchanged metrics again after this time, to show that it lives."""

SILENT_FOR = timedelta(hours=1)
"""A process that wrote nothing for this time has ended."""

REMEMBERED_FOR = timedelta(days=1)
"""How long a fold keeps the names of the folded processes, whose files are gone by then."""

_TRIES = 5


def current_samples(
    registry: CollectorRegistry = metrics.REGISTRY,
) -> dict[tuple[str, Labels], float]:
    """This process's metrics so far."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def add_up(parts: Iterable[Samples]) -> dict[tuple[str, Labels], float]:
    """The sum, sample by sample."""
    total: dict[tuple[str, Labels], float] = defaultdict(float)
    for part in parts:
        for key, value in part.items():
            total[key] += value
    return dict(total)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A process's metrics at the time of writing. The process is in the key.

    `ended` means that it writes no more.
    """

    process: Annotated[str, Field(exclude=True)] = ""
    written_at: Moment
    ended: bool = False
    samples: Samples

    def is_over(self, now: datetime) -> bool:
        """Whether its process counts as ended."""
        return self.ended or now - self.written_at > SILENT_FOR


@dataclass(frozen=True)
class Past:
    """The sum of the ended processes, and when each recent one was folded in.

    The generation is in the key.
    """

    generation: Annotated[int, Field(exclude=True)] = 0
    samples: Samples = field(default_factory=dict)
    folded: Mapping[str, Moment] = field(default_factory=dict)


class MetricSnapshots:
    """The metrics of all processes. All methods raise StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def write(self, snapshot: Snapshot) -> None:
        """Replaces the process's former snapshot."""
        self._store.put(keys.metrics(snapshot.process), write(snapshot))

    def total(self, but: str | None = None) -> Samples:
        """The sum over all processes, ended ones included, except the process `but`."""
        snapshots = self.all()
        # Read after the snapshots: a process folded in between is in `past`, and named there.
        past = self.past()
        living = (
            each.samples
            for each in snapshots
            if each.process not in past.folded and each.process != but
        )
        return add_up([past.samples, *living])

    def all(self) -> list[Snapshot]:
        """The readable snapshots, by process."""
        infos = self._store.list(keys.METRICS)
        read = self._store.at_once([partial(self._read, info.key) for info in infos])
        return [snapshot for snapshot in read if snapshot]

    def past(self) -> Past:
        """The last fold."""
        for _ in range(_TRIES):
            infos = self._store.list(keys.METRICS_PAST)
            if not infos:
                return Past()
            try:
                past = read(Past, self._store.get(infos[-1].key))
                return replace(past, generation=int(_name(infos[-1].key)))
            except ObjectNotFound:
                continue  # a fold took its place
        return Past()

    def fold(self, now: datetime) -> int:
        """Adds ended processes to the past, and removes their files.

        Returns how many were added.
        """
        past = self.past()
        over = [each for each in self.all() if each.is_over(now)]
        new = [each for each in over if each.process not in past.folded]
        if new and not self._follow(_with(past, new, now)):
            return 0  # somebody else folds
        for each in over:
            self._store.delete(keys.metrics(each.process))
        return len(new)

    def _follow(self, past: Past) -> bool:
        """Replaces the former fold, unless another fold did so first. Returns whether it did."""
        key = keys.metrics_past(past.generation)
        created = self._store.create(key, write(past))
        *older, newest = self._store.list(keys.METRICS_PAST)
        for each in older:
            self._store.delete(each.key)
        return created and newest.key == key

    def _read(self, key: str) -> Snapshot | None:
        snapshot = load(self._store, Snapshot, key)
        return replace(snapshot, process=_name(key)) if snapshot else None


class Reporter(threading.Thread):
    """Writes this process's metrics every few seconds, if they changed.

    While the store is unavailable it tries again.
    """

    def __init__(self, store: Store, process: str, every_seconds: float) -> None:
        super().__init__(name="metrics", daemon=True)
        self._snapshots = MetricSnapshots(store)
        self._kind = process
        self._every_seconds = every_seconds
        self._stopping = threading.Event()
        self._written: Samples = {}
        self._written_at = datetime.now(UTC)
        self._base: Samples = {}
        self._lock = threading.Lock()
        self.process = new_process_name(process)

    def run(self) -> None:
        """Reports until it is closed."""
        while not self._stopping.wait(self._every_seconds):
            self.report()

    def report(self, ended: bool = False) -> None:
        """Writes the metrics, if they changed."""
        with self._lock:
            try:
                self._report(datetime.now(UTC), ended)
            except StoreError as error:
                logger.warning("the metrics cannot be written, and are tried again: %s", error)
            except Exception:  # else this process would report nothing any more
                logger.exception("the metrics cannot be written, and are tried again")

    def close(self) -> None:
        """Writes the last report."""
        self._stopping.set()
        self.report(ended=True)

    def _report(self, now: datetime, ended: bool) -> None:
        counted = current_samples()
        # After a sleep of the machine, the last snapshot may have been folded in already.
        if now - self._written_at > SILENT_FOR / 2:
            self.process, self._base = new_process_name(self._kind), self._written or self._base
            self._written_at = now
        is_news = counted != (self._written or self._base)
        if not any(counted.values()) or not (
            is_news or ended or now - self._written_at > REWRITTEN_AFTER
        ):
            return
        since = {key: value - self._base.get(key, 0.0) for key, value in counted.items()}
        self._snapshots.write(
            Snapshot(
                process=self.process,
                written_at=now,
                samples={key: value for key, value in since.items() if value},
                ended=ended,
            )
        )
        self._written, self._written_at = counted, now


def new_process_name(kind: str) -> str:
    """A name that no other process has had."""
    host = "".join(letter if letter.isalnum() else "-" for letter in socket.gethostname())[:60]
    return f"{kind}-{host}-{os.getpid()}-{secrets.token_hex(3)}"


def start_reporter(store: Store, process: str, every_seconds: float) -> Reporter:
    """Starts a reporter."""
    reporter = Reporter(store, process, every_seconds)
    reporter.start()
    return reporter


def _with(past: Past, gone: Iterable[Snapshot], now: datetime) -> Past:
    remembered = {
        process: moment for process, moment in past.folded.items() if now - moment < REMEMBERED_FOR
    }
    samples = add_up([past.samples, *(each.samples for each in gone)])
    return Past(
        past.generation + 1, samples, {**remembered, **{each.process: now for each in gone}}
    )


def _name(key: str) -> str:
    return key.rpartition("/")[2]
