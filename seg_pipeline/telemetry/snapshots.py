"""The processes' counts in the store, and their sum. Counters never go down, whichever process
ends.

    write   metrics/{process}
            by each process, every few seconds, if something changed
    fold    metrics-past/{n+1} → no metrics-past/{n} → no metrics/{process}
            by the prune, of those that ended

`metrics-past/{n}` holds the sum of the processes that are gone, and their names: one whose file is
still there is not counted twice. Each fold makes the next number with a conditional write, so that
of two folds at once one alone counts. What a process has counted since its last write is lost with
it if it is killed.
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
"""A process whose counts stand still writes them again after this long, to show that it lives."""

SILENT_FOR = timedelta(hours=1)
"""A process that wrote nothing for so long has ended."""

REMEMBERED_FOR = timedelta(days=1)
"""How long a fold remembers whom it folded; by then their files are gone."""

_TRIES = 5


def current_samples(
    registry: CollectorRegistry = metrics.REGISTRY,
) -> dict[tuple[str, Labels], float]:
    """What this process has counted so far."""
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
    """What a process had counted when it wrote this; `ended` says that it writes no more. The
    process is in the key."""

    process: Annotated[str, Field(exclude=True)] = ""
    written_at: Moment
    ended: bool = False
    samples: Samples

    def is_over(self, now: datetime) -> bool:
        """Whether its process is taken for gone."""
        return self.ended or now - self.written_at > SILENT_FOR


@dataclass(frozen=True)
class Past:
    """The sum of the processes that are gone, and when each of the last of them was folded in. The
    generation is in the key."""

    generation: Annotated[int, Field(exclude=True)] = 0
    samples: Samples = field(default_factory=dict)
    folded: Mapping[str, Moment] = field(default_factory=dict)


class MetricSnapshots:
    """Every process's counts. All methods raise StoreUnavailable when the store does not do its
    part."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def write(self, snapshot: Snapshot) -> None:
        """Replaces what the process wrote before."""
        self._store.put(keys.metrics(snapshot.process), write(snapshot))

    def total(self, but: str | None = None) -> Samples:
        """What all processes have counted, those that are gone too; without that of the process
        named."""
        snapshots = self.all()
        # After the files: whoever was folded between is in it, and is named in it.
        past = self.past()
        living = (
            each.samples
            for each in snapshots
            if each.process not in past.folded and each.process != but
        )
        return add_up([past.samples, *living])

    def all(self) -> list[Snapshot]:
        """The snapshots that are there, by process; what cannot be read is left out."""
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
        """Adds the processes that are gone to the past, and removes their files; how many were
        added."""
        past = self.past()
        over = [each for each in self.all() if each.is_over(now)]
        fresh = [each for each in over if each.process not in past.folded]
        if fresh and not self._follow(_with(past, fresh, now)):
            return 0  # somebody else folds
        for each in over:
            self._store.delete(keys.metrics(each.process))
        return len(fresh)

    def _follow(self, past: Past) -> bool:
        """Puts it in the place of the one before, unless another fold did so first; says whether it
        did."""
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
    """Writes this process's counts every few seconds, if they changed. A store that is away is
    tried again."""

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
        """Writes what has been counted, if there is news."""
        with self._lock:
            try:
                self._report(datetime.now(UTC), ended)
            except StoreError as error:
                logger.warning("the metrics cannot be written, and are tried again: %s", error)

    def close(self) -> None:
        """The last report: the process counts no more."""
        self._stopping.set()
        self.report(ended=True)

    def _report(self, now: datetime, ended: bool) -> None:
        counted = current_samples()
        # The machine slept: what was written may have been folded in.
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
    """A reporter that runs."""
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
