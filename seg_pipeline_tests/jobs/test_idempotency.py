"""Idempotency keys: one key is one job, whoever else asks at the same moment."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from seg_pipeline.errors import IdempotencyKeyReused
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.settings import Settings
from seg_pipeline.store import keys
from seg_pipeline_tests.jobs.test_repository_processes import race, shared  # noqa: F401
from seg_pipeline_tests.store.writers import use_keys_at_once
from seg_pipeline_tests.unreliable import Killed, UnreliableStore


def test_a_new_key_stands_for_the_job_that_is_given(repository: JobRepository) -> None:
    assert repository.idempotency.uuid_of("k", "asked", "job-1") == "job-1"
    assert repository.idempotency.uuid_of("other", "asked", "job-2") == "job-2"


def test_a_key_that_comes_again_stands_for_its_first_job(repository: JobRepository) -> None:
    repository.idempotency.uuid_of("k", "asked", "job-1")
    assert repository.idempotency.uuid_of("k", "asked", "job-2") == "job-1"


def test_a_key_with_another_request_is_refused_and_still_stands_for_the_first(
    repository: JobRepository,
) -> None:
    repository.idempotency.uuid_of("k", "asked", "job-1")
    with pytest.raises(IdempotencyKeyReused):
        repository.idempotency.uuid_of("k", "something else", "job-2")
    assert repository.idempotency.uuid_of("k", "asked", "job-3") == "job-1"


def test_of_many_threads_with_one_key_all_get_the_same_job(repository: JobRepository) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = [
            *pool.map(lambda n: repository.idempotency.uuid_of("k", "a", f"job-{n}"), range(32))
        ]
    assert len(set(found)) == 1


@pytest.mark.slow
def test_of_several_processes_with_one_key_all_get_the_same_job(shared: Settings) -> None:  # noqa: F811
    """In a folder and in a bucket alike."""
    names = [f"key-{number}" for number in range(10)]
    assert race(use_keys_at_once, shared, names) == sorted(names)


def test_a_key_that_a_power_cut_left_empty_is_as_if_it_was_never_sent(
    repository: JobRepository,
) -> None:
    repository.store.put(keys.idempotency("k"), b"")
    assert repository.idempotency.uuid_of("k", "asked", "job-1") == "job-1"


def test_a_process_that_dies_before_it_wrote_the_key_leaves_nothing(
    repository: JobRepository,
) -> None:
    dying = JobRepository(UnreliableStore(repository.store, lives=0))
    with pytest.raises(Killed):
        dying.idempotency.uuid_of("k", "asked", "job-1")
    assert repository.idempotency.uuid_of("k", "asked", "job-2") == "job-2"


def test_the_old_ones_are_found_and_no_others(repository: JobRepository) -> None:
    repository.idempotency.uuid_of("k", "asked", "job-1")
    now = datetime.now(UTC)
    assert [*repository.idempotency.older_than(now - timedelta(hours=1))] == []
    assert [*repository.idempotency.older_than(now + timedelta(hours=1))] == [keys.idempotency("k")]
