"""The way of a job through the store, interrupted at every write."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from itertools import count

import pytest

from seg_pipeline.domain import JobStatus
from seg_pipeline.errors import JobNotFound
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline_tests.builders import (
    NOON,
    make_result,
    orphans,
    waiting_uuids,
)
from seg_pipeline_tests.jobs.jobs_in_store import (
    LATER,
    accept,
    all_keys,
    everything,
    finish,
    now_and_then,
)
from seg_pipeline_tests.unreliable import Killed, UnreliableStore


def die_everywhere(
    store: Store,
    prepare: Callable[[JobRepository, str], None],
    act: Callable[[JobRepository, str], object],
) -> int:
    """Does `act` on a fresh uuid for each of its writes, killed before that write, then does it
    again unharmed.

    Compares what is in the store with what an `act` that was never killed leaves; returns the
    number of writes.
    """
    healthy = JobRepository(store)
    prepare(healthy, "unharmed")
    act(healthy, "unharmed")
    expected = _about(healthy, "unharmed")
    for lives in count():
        uuid = f"killed-{lives}"
        prepare(healthy, uuid)
        try:
            act(JobRepository(UnreliableStore(store, lives)), uuid)
        except Killed:
            act(healthy, uuid)
            assert _about(healthy, uuid) == expected, f"killed before write {lives}"
        else:
            assert _about(healthy, uuid) == expected
            return lives
    raise AssertionError("unreachable")


def _about(repository: JobRepository, uuid: str) -> set[str]:
    return {
        key.replace(uuid, "{uuid}")
        for key in all_keys(repository)
        if uuid in key.replace("/", "-").split("-", 1)[1]
    }


def test_an_acceptance_killed_at_any_write_is_completed_by_asking_again(store: Store) -> None:
    writes = die_everywhere(store, lambda *_: None, accept)
    assert writes == 3


def test_an_acceptance_that_died_half_way_is_no_job_for_anybody(store: Store) -> None:
    """Never an answer for it, never a run: either it is asked for again, or it is an orphan."""
    for lives in range(3):
        repository = JobRepository(store)
        with pytest.raises(Killed):
            accept(JobRepository(UnreliableStore(store, lives)), f"job-{lives}")
        with pytest.raises(JobNotFound):
            repository.status(f"job-{lives}")
        assert waiting_uuids(repository, 10) == []
        assert everything(repository) == []
    assert orphans(repository, now_and_then()) == ["job-1", "job-2"]


def test_a_claim_killed_at_any_write_loses_and_doubles_nothing(store: Store) -> None:
    """If it dies after the job is in flight, the sensor never asked for the run: the sweeper
    does."""
    for lives in range(3):
        uuid = f"job-{lives}"
        accept(JobRepository(store), uuid)
        repository = JobRepository(UnreliableStore(store, lives))
        try:
            claimed = len(repository.claims.claim([uuid], f"{uuid}:1"))
        except Killed:
            claimed = 0
        again = len(JobRepository(store).claims.claim([uuid], f"{uuid}:1"))
        assert [claim.uuid for claim in JobRepository(store).claims.inflight()] == [uuid]
        assert waiting_uuids(JobRepository(store), 10) == []
        assert (claimed, again) == {0: (0, 1), 1: (0, 0), 2: (1, 0)}[lives]
        JobRepository(store).results.finish(make_result(uuid, "completed", LATER))


def test_a_finish_killed_at_any_write_is_completed_by_finishing_again(store: Store) -> None:
    writes = die_everywhere(
        store,
        _claimed,
        lambda repository, uuid: repository.results.finish(make_result(uuid, "completed", LATER)),
    )
    assert writes == 8


def test_a_finish_killed_after_the_result_is_completed_by_settling(store: Store) -> None:
    repository = JobRepository(store)
    for lives in range(1, 6):
        uuid = f"job-{lives}"
        _claimed(repository, uuid)
        with pytest.raises(Killed):
            JobRepository(UnreliableStore(store, lives)).results.finish(
                make_result(uuid, "completed", LATER)
            )
        assert repository.status(uuid) is JobStatus.COMPLETED
        assert repository.results.settle(uuid)
    finish(repository, "unharmed")
    expected = _about(repository, "unharmed")
    assert all(_about(repository, f"job-{lives}") == expected for lives in range(1, 6))


def test_a_rerun_killed_at_any_write_is_completed_by_another(store: Store) -> None:
    def prepare(repository: JobRepository, uuid: str) -> None:
        finish(repository, uuid, status="failed", expires_at=NOON)

    def rerun(repository: JobRepository, uuid: str) -> None:
        repository.results.finish(make_result(uuid, "completed", LATER))
        [
            *repository.expiry.expired(NOON + timedelta(minutes=1), 10)
        ]  # the hourly prune removes what a dead rerun left

    die_everywhere(store, prepare, rerun)


def test_a_deletion_killed_at_any_write_is_completed_by_deleting_again(store: Store) -> None:
    def delete(repository: JobRepository, uuid: str) -> None:
        repository.removal.delete(uuid)
        for job in repository.expiry.expired(
            LATER, 10
        ):  # the marker whose name only the result told
            repository.store.delete(job.key)

    die_everywhere(store, finish, delete)


def test_what_is_half_deleted_is_not_served(store: Store) -> None:
    """Whoever is answered finds all that the answer names."""
    repository = JobRepository(store)
    for lives in range(1, 10):
        uuid = f"job-{lives}"
        finish(repository, uuid)
        store.put(keys.mask(uuid, 0), b"mask")
        with pytest.raises(Killed):
            JobRepository(UnreliableStore(store, lives)).removal.delete(uuid)
        if repository.result(uuid):
            assert store.get(keys.mask(uuid, 0)) == b"mask"
            assert repository.job(uuid)
        else:
            with pytest.raises(JobNotFound):
                repository.status(uuid)


def test_the_prune_finds_what_a_dead_prune_left(store: Store) -> None:
    """Each job is either in the list of the expired or an orphan, until nothing of it is left."""
    repository = JobRepository(store)
    for lives in range(12):
        finish(repository, f"job-{lives}")
        with suppress(Killed):
            JobRepository(UnreliableStore(store, lives)).removal.delete(f"job-{lives}")
    for job in repository.expiry.expired(LATER, 100):
        repository.expiry.expire(job)
    for uuid in orphans(repository, now_and_then()):
        repository.removal.remove_leftovers(uuid)
    assert all_keys(repository) == set()


def _claimed(repository: JobRepository, uuid: str) -> None:
    accept(repository, uuid)
    repository.claims.claim([uuid], f"{uuid}:1")
