"""Batches in a store: accepted whole or not at all, and gone when their time is over."""

from datetime import timedelta

import pytest

from seg_pipeline.errors import BatchConflict, BatchNotFound
from seg_pipeline.jobs.batch_records import PORTION
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline_tests.builders import NOON
from seg_pipeline_tests.jobs.batches_in_store import (
    ID,
    accept_batch,
    advance,
    finish_waiting,
    make_batch,
    make_entries,
)
from seg_pipeline_tests.jobs.jobs_in_store import now_and_then
from seg_pipeline_tests.unreliable import Killed, UnreliableStore

HOUR = timedelta(hours=1)


def test_a_batch_comes_back_as_it_was_sent(repository: JobRepository) -> None:
    total = PORTION + 2
    batch = accept_batch(repository, total, parameters={"confidence": 0.5})
    assert repository.batches.get(ID) == batch
    assert [*repository.batches.entries(batch)] == make_entries(total)
    last = PORTION + 1
    assert repository.batches.chosen(batch, [0, last]) == {
        0: make_entries(total)[0],
        last: make_entries(total)[last],
    }


def test_the_same_batch_again_is_the_first_one(repository: JobRepository) -> None:
    accept_batch(repository)
    again = repository.batches.accept(make_batch(), make_entries())
    assert not again.created
    assert repository.batches.known(ID, "f") == again.batch


def test_another_batch_under_the_id_is_a_conflict(repository: JobRepository) -> None:
    accept_batch(repository)
    with pytest.raises(BatchConflict):
        repository.batches.accept(make_batch(fingerprint="other"), make_entries())
    with pytest.raises(BatchConflict):
        repository.batches.known(ID, "other")


def test_an_acceptance_killed_at_any_write_is_completed_by_asking_again(store: Store) -> None:
    for lives in range(3):
        batch = make_batch(id=f"batch-{lives}")
        with pytest.raises(Killed):
            JobRepository(UnreliableStore(store, lives)).batches.accept(batch, make_entries())
        batches = JobRepository(store).batches
        assert batches.known(batch.id, "f") is None
        assert batches.accept(batch, make_entries()).created
        assert [*batches.entries(batch)] == make_entries()


def test_a_batch_that_is_not_there_is_not_found(repository: JobRepository) -> None:
    with pytest.raises(BatchNotFound):
        repository.batches.get(ID)


def test_a_batch_expires_after_its_end_and_not_before(repository: JobRepository) -> None:
    batch = accept_batch(repository, ttl_seconds=3600)
    assert [*repository.batches.expired(NOON + timedelta(days=9), HOUR)] == []
    advance(repository)
    finish_waiting(repository)
    advance(repository, after=HOUR)
    assert [*repository.batches.expired(NOON + 1.9 * HOUR, HOUR)] == []
    assert [*repository.batches.expired(NOON + 2 * HOUR, HOUR)] == [batch.id]


def test_what_a_dead_acceptance_left_is_found(store: Store) -> None:
    for lives in (1, 2):
        batch = make_batch(id=f"batch-{lives}")
        with pytest.raises(Killed):
            JobRepository(UnreliableStore(store, lives)).batches.accept(batch, make_entries())
    store.put(keys.batch_picture("nothing-else", 0, "ab"), b"picture")
    batches = JobRepository(store).batches
    assert [*batches.expired(now_and_then() - HOUR, HOUR)] == []
    left = [*batches.expired(now_and_then(), timedelta())]
    assert left == ["batch-1", "batch-2", "nothing-else"]
    for batch_id in left:
        batches.forget(batch_id)
    assert batches.ids() == []


def test_a_deleted_batch_takes_its_jobs_along(repository: JobRepository) -> None:
    batch = accept_batch(repository)
    advance(repository)
    finish_waiting(repository)
    advance(repository)
    repository.batches.delete(batch)
    assert repository.store.list(keys.ASSETS) == []
    assert repository.store.list(keys.BATCHES) == []
    assert repository.store.list(keys.BATCH_WORK) == []
