"""The counts of all processes, added up: none is lost, none is counted twice, none goes down."""

from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytest

from seg_pipeline.errors import StoreUnavailable
from seg_pipeline.store import Store, keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline.telemetry import metrics
from seg_pipeline.telemetry.snapshots import (
    SILENT_FOR,
    MetricSnapshots,
    Reporter,
    Snapshot,
    current_samples,
)
from seg_pipeline_tests.builders import NOON
from seg_pipeline_tests.unreliable import Killed, UnreliableStore

JOBS = ("seg_jobs_accepted_total", (("via", "http"),))
LATER = NOON + 2 * SILENT_FOR


def snapshot(
    process: str, count: float, written_at: datetime = NOON, ended: bool = False
) -> Snapshot:
    """A process that accepted so many jobs."""
    return Snapshot(process=process, written_at=written_at, samples={JOBS: count}, ended=ended)


@pytest.fixture
def memory() -> Store:
    """An empty store."""
    return ObjectStore.in_memory()


def test_the_total_is_the_sum_of_all_processes(store: Store) -> None:
    snapshots = MetricSnapshots(store)
    snapshots.write(snapshot("api-1", 2))
    snapshots.write(snapshot("worker-1", 5))
    snapshots.write(snapshot("worker-1", 6))
    assert snapshots.total() == {JOBS: 8}
    assert snapshots.total(but="api-1") == {JOBS: 6}


def test_a_fold_keeps_the_sum_and_removes_the_files_of_those_that_ended(store: Store) -> None:
    snapshots = MetricSnapshots(store)
    snapshots.write(snapshot("ended", 2, LATER, ended=True))
    snapshots.write(snapshot("silent", 3, NOON))
    snapshots.write(snapshot("alive", 4, LATER))
    assert snapshots.fold(LATER) == 2
    assert snapshots.total() == {JOBS: 9}
    assert [each.process for each in snapshots.all()] == ["alive"]
    snapshots.write(snapshot("alive", 5, LATER, ended=True))
    assert snapshots.fold(LATER) == 1
    assert snapshots.fold(LATER) == 0
    assert snapshots.total() == {JOBS: 10}
    assert len(store.list(keys.METRICS_PAST)) == 1


def test_a_process_that_was_folded_is_not_counted_again(memory: Store) -> None:
    """Its file may be left by a fold that died, or written by a process that was only silent."""
    snapshots = MetricSnapshots(memory)
    snapshots.write(snapshot("silent", 3, NOON))
    snapshots.fold(LATER)
    snapshots.write(snapshot("silent", 3, LATER))
    assert snapshots.total() == {JOBS: 3}


def test_of_two_folds_at_once_one_counts(memory: Store) -> None:
    snapshots = MetricSnapshots(memory)
    snapshots.write(snapshot("silent", 3, NOON))
    seen = MetricSnapshots(memory).past()
    snapshots.fold(LATER)
    snapshots.past = lambda: seen  # type: ignore[method-assign]  # it looked before the other had folded
    snapshots.write(snapshot("other", 1, NOON))
    assert snapshots.fold(LATER) == 0
    assert MetricSnapshots(memory).total() == {JOBS: 4}


@pytest.mark.parametrize("lives", range(6))
def test_a_fold_may_die_anywhere(memory: Store, lives: int) -> None:
    snapshots = MetricSnapshots(memory)
    snapshots.write(snapshot("first", 1, NOON))
    snapshots.fold(LATER)
    snapshots.write(snapshot("silent", 3, NOON))
    snapshots.write(snapshot("alive", 4, LATER))
    with suppress(Killed):
        MetricSnapshots(UnreliableStore(memory, lives)).fold(LATER)
    assert snapshots.total() == {JOBS: 8}
    snapshots.fold(LATER)
    assert snapshots.total() == {JOBS: 8}
    assert [each.process for each in snapshots.all()] == ["alive"]


def test_what_cannot_be_read_is_left_out(memory: Store) -> None:
    memory.put(keys.metrics("half"), b"")
    MetricSnapshots(memory).write(snapshot("whole", 1))
    assert MetricSnapshots(memory).total() == {JOBS: 1}


def test_a_reporter_writes_when_something_changed(memory: Store) -> None:
    reporter = Reporter(memory, "worker", 1000)
    metrics.JOBS_ACCEPTED.labels("http").inc()
    reporter.report()
    (first,) = MetricSnapshots(memory).all()
    reporter.report()
    assert MetricSnapshots(memory).all() == [first]
    metrics.JOBS_ACCEPTED.labels("http").inc()
    reporter.close()
    (last,) = MetricSnapshots(memory).all()
    assert last.samples[JOBS] == first.samples[JOBS] + 1 == current_samples()[JOBS]
    assert last.ended


def test_a_reporter_that_slept_counts_on_under_another_name(
    memory: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A laptop that was closed: the prune may have folded in what was written before."""
    snapshots, reporter = MetricSnapshots(memory), Reporter(memory, "worker", 1000)
    metrics.JOBS_ACCEPTED.labels("http").inc()
    reporter.report()
    before = snapshots.total()[JOBS]
    woken = snapshots.all()[0].written_at + 2 * SILENT_FOR
    snapshots.fold(woken)
    monkeypatch.setattr("seg_pipeline.telemetry.snapshots.datetime", fixed_clock(woken))
    metrics.JOBS_ACCEPTED.labels("http").inc()
    reporter.report()
    assert snapshots.total()[JOBS] == before + 1
    metrics.JOBS_ACCEPTED.labels("http").inc()
    reporter.report()
    assert snapshots.total()[JOBS] == before + 2


@pytest.mark.parametrize("error", [StoreUnavailable("away"), RuntimeError("a fault of ours")])
def test_a_report_that_fails_costs_no_count(memory: Store, error: Exception) -> None:
    class Away:
        def put(self, *_: Any) -> None:
            raise error

    reporter = Reporter(Away(), "worker", 1000)  # type: ignore[arg-type]
    metrics.JOBS_ACCEPTED.labels("http").inc()
    reporter.report()
    reporter._snapshots = MetricSnapshots(memory)
    reporter.report()
    assert MetricSnapshots(memory).total()[JOBS] == current_samples()[JOBS]


def fixed_clock(moment: datetime) -> type[datetime]:
    """A `datetime` whose `now` is always this."""

    class Fixed(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return moment + timedelta(seconds=1)

    return Fixed
