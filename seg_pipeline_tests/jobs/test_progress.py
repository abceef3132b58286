"""The note on how far a worker has come, which goes with the job's end."""

from collections.abc import Callable

import pytest

from seg_pipeline.jobs.progress import (
    HOLDS_SECONDS,
    LOOK_SECONDS,
    Listeners,
    Progress,
    mark_listeners,
)
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline.store.serialization import read, write
from seg_pipeline_tests.builders import NOON, make_job, make_result
from seg_pipeline_tests.unreliable import UnreliableStore

ENDS: list[Callable[[JobRepository], object]] = [
    lambda repository: repository.results.finish(make_result()),
    lambda repository: repository.cancels.end("job-1"),
    lambda repository: repository.removal.delete("job-1"),
]


@pytest.mark.parametrize("end", ENDS, ids=["finished", "cancelled", "deleted"])
def test_it_is_gone_when_the_job_has_ended(
    repository: JobRepository, end: Callable[[JobRepository], object]
) -> None:
    """Even if the worker that wrote it died."""
    repository.acceptance.accept(make_job(), b"picture")
    repository.store.put(keys.progress("job-1"), write(Progress("segments", NOON, 1, 2)))
    end(repository)
    assert repository.store.list(keys.PROGRESS) == []


@pytest.mark.parametrize("progress", [Progress("cutouts", NOON), Progress("segments", NOON, 0, 9)])
def test_it_is_read_as_it_was_written(progress: Progress) -> None:
    assert read(Progress, write(progress)) == progress


class Seconds:
    """A clock that is set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_listeners_are_there_while_their_mark_changes(store: Store) -> None:
    clock = Seconds()
    listeners = Listeners(store, clock)
    assert not listeners.are_there()
    mark_listeners(store)
    assert listeners.are_there()
    clock.now += HOLDS_SECONDS - 1
    mark_listeners(store)
    assert listeners.are_there()
    clock.now += HOLDS_SECONDS - 1
    assert listeners.are_there(), "two of a process that died are not told apart sooner"
    clock.now += 1
    assert not listeners.are_there()
    mark_listeners(store)
    assert listeners.are_there()


def test_while_there_are_listeners_the_mark_is_looked_for_seldom() -> None:
    clock, store = Seconds(), UnreliableStore(ObjectStore.in_memory())
    mark_listeners(store)
    listeners = Listeners(store, clock)
    for _ in range(100):
        assert listeners.are_there()
        clock.now += LOOK_SECONDS / 10
    assert store.calls["head"] <= 11
