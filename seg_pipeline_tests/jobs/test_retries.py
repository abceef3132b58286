"""Failed jobs that run again: where they wait, what is left of their former end, and who dies."""

from datetime import UTC, datetime, timedelta

import pytest

from seg_pipeline.domain import JobStatus
from seg_pipeline.errors import FetchGivenUp, JobNotFound, NotAnImage, NotFailed
from seg_pipeline.jobs.fetches import FetchRecord
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline_tests.builders import bring_picture, make_job, make_result, waiting_uuids
from seg_pipeline_tests.jobs.jobs_in_store import LATER, accept, all_keys, everything, finish
from seg_pipeline_tests.unreliable import Killed, UnreliableStore


def in_a_minute() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=1)


def test_a_failed_job_waits_again_as_if_it_had_just_come(repository: JobRepository) -> None:
    finish(repository, "job-1", status="failed")
    repository.retries.request("job-1")
    accept(repository, "job-2")
    of_the_other = {key.replace("job-2", "job-1") for key in all_keys(repository) if "2" in key}
    assert {key for key in all_keys(repository) if "job-1" in key} == of_the_other
    assert repository.status("job-1") is JobStatus.QUEUED
    assert everything(repository) == [("job-1", "queued"), ("job-2", "queued")]


def test_its_attempts_are_counted_anew_and_its_new_result_counts(
    repository: JobRepository,
) -> None:
    finish(repository, "job-1", status="failed")
    repository.retries.request("job-1")
    [claim] = repository.claims.claim(["job-1"], "again")
    repository.results.finish(make_result("job-1", "completed", LATER))
    assert (claim.attempt, claim.losses) == (1, 0)
    assert repository.status("job-1") is JobStatus.COMPLETED
    assert everything(repository) == [("job-1", "completed")]


def test_a_picture_that_could_not_be_fetched_is_fetched_again(repository: JobRepository) -> None:
    job = make_job("job-1", image_url="https://pictures.example/a.png")
    repository.acceptance.accept(job)
    repository.fetches.failed(job, FetchRecord().failed(FetchGivenUp("It is away.")))
    repository.claims.claim(["job-1"], "run")
    repository.results.finish(make_result("job-1", "failed", LATER))
    repository.retries.request("job-1")
    assert repository.fetches.uuids() == ["job-1"]
    assert repository.fetches.take("job-1") is not None
    assert waiting_uuids(repository, 10) == []


def test_an_address_that_answered_with_no_picture_is_asked_again(repository: JobRepository) -> None:
    job = make_job("job-1", image_url="https://pictures.example/a.png")
    repository.acceptance.accept(job)
    bring_picture(repository, data=b"<html>")
    repository.claims.claim(["job-1"], "run")
    record = repository.fetches.record_of(job)
    assert record is not None
    repository.fetches.refuse(job, record, NotAnImage("This is a page."))
    repository.results.finish(make_result("job-1", "failed", LATER))
    repository.retries.request("job-1")
    assert repository.fetches.uuids() == ["job-1"]
    assert not [key for key in all_keys(repository) if "fetched-" in key]


@pytest.mark.parametrize("end", ["completed", None])
def test_only_a_failed_job_can_run_again(repository: JobRepository, end: str | None) -> None:
    accept(repository, "job-1")
    if end:
        finish(repository, "job-1", status=end)
    before = all_keys(repository)
    with pytest.raises(NotFailed):
        repository.retries.request("job-1")
    assert all_keys(repository) == before
    assert repository.store.list(keys.RETRIES) == []


def test_a_job_that_nobody_knows_cannot_run_again(repository: JobRepository) -> None:
    with pytest.raises(JobNotFound):
        repository.retries.request("job-1")


def test_a_retry_killed_at_any_write_is_completed_and_never_lost(store: Store) -> None:
    for lives in range(10):
        uuid, repository = f"job-{lives}", JobRepository(store)
        finish(repository, uuid, status="failed")
        try:
            JobRepository(UnreliableStore(store, lives)).retries.request(uuid)
        except Killed:
            assert repository.status(uuid) in {JobStatus.FAILED, JobStatus.QUEUED}
            repository.retries.complete(in_a_minute())
            assert repository.status(uuid) is (JobStatus.QUEUED if lives else JobStatus.FAILED)
        else:
            break
    assert lives == 7
    assert len(waiting_uuids(repository, 20)) == lives


def test_a_run_that_ends_the_job_at_that_moment_does_not_take_the_retry_with_it(
    repository: JobRepository,
) -> None:
    finish(repository, "job-1", status="failed")
    repository.retries.request("job-1")
    repository.store.delete(keys.inbox("job-1"))  # as the end of the former run does
    repository.retries.complete(in_a_minute())
    assert waiting_uuids(repository, 10) == ["job-1"]


def test_the_marker_goes_once_something_else_leads_to_the_job(repository: JobRepository) -> None:
    for uuid in ("waits", "runs", "ended"):
        finish(repository, uuid, status="failed")
        repository.retries.request(uuid)
    repository.claims.claim(["runs", "ended"], "again")
    repository.results.finish(make_result("ended", "failed", LATER + timedelta(hours=1)))
    repository.retries.complete()
    assert len(repository.store.list(keys.RETRIES)) == 3
    repository.retries.complete(in_a_minute())
    assert repository.store.list(keys.RETRIES) == []
    assert everything(repository) == [("waits", "queued"), ("runs", "queued"), ("ended", "failed")]


def test_a_deleted_job_takes_its_retry_with_it(repository: JobRepository) -> None:
    finish(repository, "job-1", status="failed")
    repository.retries.request("job-1")
    repository.removal.delete("job-1")
    repository.retries.complete(in_a_minute())
    assert repository.store.list(keys.RETRIES) == []
    assert all_keys(repository) == set()
