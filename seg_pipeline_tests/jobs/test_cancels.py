"""Requests to cancel: about one job, and gone with it."""

from collections.abc import Callable
from contextlib import suppress

import pytest

from seg_pipeline.errors import JobNotFound
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline_tests.builders import (
    NOON,
    bring_picture,
    error_of,
    make_job,
    make_queue_job,
    make_result,
    result_of,
)
from seg_pipeline_tests.unreliable import Killed, UnreliableStore

ADDRESS = "https://pictures.example/a.png"


def accept(repository: JobRepository, uuid: str = "job-1", **asked: object) -> None:
    repository.acceptance.accept(make_job(uuid, image_url=ADDRESS, **asked))


def test_the_jobs_that_were_requested_to_be_cancelled_are_told_from_others(
    repository: JobRepository,
) -> None:
    for uuid in ("a", "b", "c"):
        accept(repository, uuid)
    repository.cancels.request("a")
    repository.cancels.request("c")
    assert repository.cancels.requested(["a", "b"]) == {"a"}


ENDS: list[Callable[[JobRepository], object]] = [
    lambda repository: repository.results.finish(make_result("job-1", "failed", NOON)),
    lambda repository: repository.removal.delete("job-1"),
]


@pytest.mark.parametrize("end", ENDS, ids=["ended", "deleted"])
def test_a_request_is_gone_when_the_job_is(
    repository: JobRepository, end: Callable[[JobRepository], object]
) -> None:
    accept(repository)
    repository.cancels.request("job-1")
    end(repository)
    assert repository.store.list(keys.CANCELS) == []


def test_a_request_about_a_former_job_does_not_cancel_a_new_one_of_the_same_uuid(
    repository: JobRepository,
) -> None:
    accept(repository)
    repository.cancels.request("job-1")
    late = repository.store.get(keys.cancel("job-1"))
    repository.removal.delete("job-1")
    accept(repository, accepted_at=NOON.replace(hour=13))
    repository.store.put(keys.cancel("job-1"), late)
    assert repository.cancels.requested(["job-1"]) == frozenset()


def test_a_request_about_a_job_that_nobody_knows_is_refused(repository: JobRepository) -> None:
    with pytest.raises(JobNotFound):
        repository.cancels.request("job-1")
    assert repository.store.list(keys.CANCELS) == []


def test_without_a_request_the_store_is_called_once_whatever_the_number_of_jobs() -> None:
    store = UnreliableStore(ObjectStore.in_memory())
    assert JobRepository(store).cancels.requested([f"job-{n}" for n in range(32)]) == frozenset()
    assert store.calls == {"list": 1}


def test_a_request_about_a_job_that_ends_meanwhile_leaves_nothing(
    repository: JobRepository,
) -> None:
    accept(repository)
    repository.results.finish(make_result("job-1", "completed", NOON))
    repository.cancels.request("job-1")
    assert repository.store.list(keys.CANCELS) == []


def test_a_job_that_no_worker_has_ends_at_once_as_cancelled(repository: JobRepository) -> None:
    """It waits for its picture, for its run, or is claimed for a run that has not begun."""
    for uuid in ("fetching", "waiting", "claimed"):
        accept(repository, uuid)
    bring_picture(repository, "waiting")
    bring_picture(repository, "claimed")
    repository.claims.claim(["claimed"], "claimed:1")
    for uuid in ("fetching", "waiting", "claimed"):
        repository.cancels.end(uuid)
        assert error_of(repository, uuid).code == "cancelled"
    for prefix in (keys.FETCHING, keys.INBOX, keys.INFLIGHT, keys.CANCELS):
        assert repository.store.list(prefix) == []


def test_the_first_end_stays(repository: JobRepository) -> None:
    accept(repository)
    repository.results.finish(make_result("job-1", "completed", NOON))
    repository.cancels.end("job-1")
    assert result_of(repository).status == "completed"


def test_the_app_server_is_told_of_a_cancel(repository: JobRepository) -> None:
    repository.acceptance.accept(make_queue_job())
    repository.cancels.end("job-1")
    assert repository.outbox.uuids() == {"job-1"}


@pytest.mark.parametrize("lives", range(12))
def test_a_cancel_that_dies_between_any_two_writes_is_completed_by_the_next_one(
    lives: int,
) -> None:
    store = ObjectStore.in_memory()
    accept(JobRepository(store))
    with suppress(Killed):
        JobRepository(UnreliableStore(store, lives)).cancels.end("job-1")
    JobRepository(store).cancels.end("job-1")
    assert error_of(JobRepository(store)).code == "cancelled"
    for prefix in (keys.FETCHING, keys.INBOX, keys.INFLIGHT, keys.CANCELS):
        assert store.list(prefix) == []
    assert len(store.list(keys.EXPIRY)) == 1
