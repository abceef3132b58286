"""Pictures that are to be fetched, in the store: interrupted at every write, and beside
deletions."""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest

from seg_pipeline.domain import Job, JobStatus
from seg_pipeline.errors import FetchGivenUp, FetchRejected, SegPipelineError, UrlRefused
from seg_pipeline.jobs.fetches import FetchRecord, FetchState
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline.store.serialization import read, to_document
from seg_pipeline_tests.builders import NOON, bring_picture, make_job, make_result, waiting_uuids
from seg_pipeline_tests.jobs.jobs_in_store import UNREADABLE_REQUESTS, put_unreadable
from seg_pipeline_tests.unreliable import Killed, Turns, UnreliableStore

LINK = {"image_url": "https://pictures.example/a.png"}


def accept(repository: JobRepository, uuid: str = "job-1", **asked: object) -> Job:
    return repository.acceptance.accept(make_job(uuid, **{**LINK, **asked})).job


def markers(repository: JobRepository) -> set[str]:
    prefixes = (keys.FETCHING, keys.INBOX, keys.INFLIGHT)
    return {info.key for prefix in prefixes for info in repository.store.list(prefix)}


def test_a_job_with_an_address_is_fetched_before_anybody_can_claim_it(
    repository: JobRepository,
) -> None:
    job = accept(repository)
    assert markers(repository) == {"fetching/job-1"}
    assert repository.status("job-1") is JobStatus.QUEUED
    pending = repository.fetches.take("job-1")
    assert pending is not None
    assert (pending.job, pending.record.attempts) == (job, 0)
    bring_picture(repository, data=b"bytes")
    assert markers(repository) == {"inbox/job-1"}
    assert repository.status("job-1") is JobStatus.QUEUED
    assert [claim.uuid for claim in repository.claims.claim(["job-1"], "key")] == ["job-1"]
    record = repository.fetches.record_of(job)
    assert record is not None
    assert repository.fetches.picture(job, record) == b"bytes"


@pytest.mark.parametrize(
    "error", [FetchGivenUp("Away."), FetchRejected("404."), UrlRefused("Private.")]
)
def test_a_picture_that_cannot_be_had_is_a_job_that_may_be_claimed_alone(
    repository: JobRepository, error: SegPipelineError
) -> None:
    accept(repository)
    accept(repository, "job-2")
    bring_picture(repository, error=error)
    bring_picture(repository, "job-2")
    waiting = repository.claims.waiting(10)
    assert (waiting.ready, waiting.failed) == (["job-2"], ["job-1"])
    (claim,) = repository.claims.claim(["job-1"], "key")
    record = repository.fetches.record_of(repository.job("job-1"))
    assert record is not None
    reason = record.error()
    assert (claim.attempt, type(reason), str(reason), reason.permanent) == (
        1,
        type(error),
        str(error),
        True,
    )


def test_a_retry_is_remembered(repository: JobRepository) -> None:
    job = accept(repository)
    record = FetchRecord(attempts=2, due_at=NOON, code="fetch_unavailable", message="It is away.")
    repository.fetches.retry(job, record)
    pending = JobRepository(repository.store).fetches.take("job-1")
    assert pending is not None
    assert pending.record == record
    assert repository.status("job-1") is JobStatus.QUEUED


def test_asking_again_neither_fetches_twice_nor_forgets_the_tries(
    repository: JobRepository,
) -> None:
    job = accept(repository)
    repository.fetches.retry(job, FetchRecord(attempts=3))
    assert not repository.acceptance.accept(make_job("job-1", **LINK)).created
    assert (repository.fetches.take("job-1") or pytest.fail("gone")).record.attempts == 3
    bring_picture(repository)
    accept(repository)
    assert markers(repository) == {"inbox/job-1"}


def test_a_listing_has_each_job_once(repository: JobRepository) -> None:
    for uuid in ("a", "b", "c"):
        accept(repository, uuid)
    bring_picture(repository, "b")
    bring_picture(repository, "c")
    repository.claims.claim(["c"], "key")
    repository.store.put(keys.inbox("a"), b"")  # in the moment between two steps
    listed = repository.listing.page(None, None, 10).jobs
    assert sorted((entry.uuid, str(entry.status)) for entry in listed) == [
        ("a", "queued"), ("b", "queued"), ("c", "queued"),
    ]  # fmt: skip
    assert len(repository.listing.page(None, None, 2).jobs) == 2


# Deleting


@pytest.mark.parametrize("stage", ["accepted", "tried", "fetched", "failed", "claimed"])
def test_a_deleted_job_leaves_nothing_behind(repository: JobRepository, stage: str) -> None:
    job = accept(repository)
    if stage == "tried":
        repository.fetches.retry(job, FetchRecord(attempts=1))
    elif stage != "accepted":
        bring_picture(repository, error=FetchGivenUp("Away.") if stage == "failed" else None)
    if stage == "claimed":
        repository.claims.claim(["job-1"], "key")
    assert repository.removal.delete("job-1")
    assert markers(repository) | {info.key for info in repository.store.list(keys.ASSETS)} == set()


def test_what_a_fetcher_brings_for_a_deleted_job_is_dropped(repository: JobRepository) -> None:
    job = accept(repository)
    repository.removal.delete("job-1")
    repository.fetches.fetched(job, b"late", FetchRecord(FetchState.FETCHED, size=4))
    repository.fetches.failed(job, FetchRecord().failed(FetchRejected("404.")))
    repository.fetches.retry(job, FetchRecord(attempts=1))
    assert markers(repository) | {info.key for info in repository.store.list(keys.ASSETS)} == set()


def test_nothing_of_a_deleted_job_is_taken_for_its_successors(repository: JobRepository) -> None:
    former = accept(repository)
    repository.fetches.retry(former, FetchRecord(attempts=3))
    repository.removal.delete("job-1")
    accept(
        repository, image_url="https://elsewhere.example/b.png", accepted_at=NOON.replace(hour=13)
    )
    repository.fetches.fetched(former, b"another picture", FetchRecord(FetchState.FETCHED, size=15))
    pending = repository.fetches.take("job-1")
    assert pending is not None
    assert (pending.record.attempts, waiting_uuids(repository, 10)) == (0, [])


CALLS = 40


def bring(job: Job, outcome: SegPipelineError | None, store: Store) -> None:
    """What a fetcher does that learned of the job before."""
    fetches = JobRepository(store).fetches
    if outcome:
        fetches.failed(job, FetchRecord().failed(outcome))
    else:
        fetches.fetched(job, b"picture", FetchRecord(FetchState.FETCHED, size=7))


@pytest.mark.parametrize("outcome", [None, FetchGivenUp("Away.")])
@pytest.mark.parametrize("again", [True, False])
def test_however_a_fetch_and_a_deletion_take_turns_no_accepted_job_is_lost(
    again: bool, outcome: SegPipelineError | None
) -> None:
    """`again`: the same job is accepted once more after the deletion, while the fetcher is still at
    work."""
    for calls in range(CALLS):
        repository = JobRepository(ObjectStore.in_memory())
        job = accept(repository)
        fetch = Turns(partial(bring, job, outcome), repository.store, calls)
        fetch.begin()
        repository.removal.delete("job-1")
        if again:
            accept(repository, accepted_at=NOON.replace(hour=13))
        fetch.end()
        for _ in range(2):  # a marker without its picture goes back to be fetched
            repository.claims.claim(waiting_uuids(repository, 10), "key")
            if repository.fetches.uuids():
                bring_picture(repository, error=outcome)
        assert (repository.claims.claim_of("job-1") is not None) or not again, calls


# Crashes


def until_killed(store: Store, lives: int, work: Callable[[JobRepository], object]) -> bool:
    with suppress(Killed):
        work(JobRepository(UnreliableStore(store, lives)))
        return False
    return True


@pytest.mark.parametrize("outcome", [None, FetchGivenUp("Away.")])
def test_a_fetcher_killed_at_any_write_loses_no_job(
    store: Store, outcome: SegPipelineError | None
) -> None:
    for lives in range(20):
        repository, uuid = JobRepository(store), f"job-{lives}"
        accept(repository, uuid)
        was_killed = until_killed(store, lives, partial(bring_picture, uuid=uuid, error=outcome))
        if repository.fetches.take(uuid):  # the next fetcher completes it, or begins anew
            bring_picture(repository, uuid, error=outcome)
        assert repository.fetches.uuids() == []
        assert [
            claim.uuid for claim in repository.claims.claim(waiting_uuids(repository, 10), "key")
        ] == [uuid]
        if not was_killed:
            return
    pytest.fail("it never came to its end")


def test_an_acceptance_killed_at_any_write_is_completed_by_asking_again(store: Store) -> None:
    for lives in range(5):
        uuid = f"job-{lives}"
        was_killed = until_killed(store, lives, partial(accept, uuid=uuid))
        accept(JobRepository(store), uuid)
        assert uuid in JobRepository(store).fetches.uuids()
        if not was_killed:
            return
    pytest.fail("it never came to its end")


def test_bytes_that_a_power_cut_took_are_fetched_again(repository: JobRepository) -> None:
    job = accept(repository)
    bring_picture(repository)
    (key,) = (
        info.key
        for info in repository.store.list(keys.asset("job-1", ""))
        if "fetched-" in info.key
    )
    repository.store.put(key, b"")
    assert repository.claims.claim(["job-1"], "key") == []
    assert markers(repository) == {"fetching/job-1"}
    pending = repository.fetches.take("job-1")
    assert pending is not None
    assert (pending.job, pending.record.attempts) == (job, 0)


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b'{"state": "lost", "due_at": "x"}', b"\xff"])
def test_an_unreadable_record_is_none(repository: JobRepository, record: bytes) -> None:
    job = accept(repository)
    repository.fetches.retry(job, FetchRecord(attempts=1))
    (key,) = (
        info.key for info in repository.store.list(keys.asset("job-1", "")) if "fetch-" in info.key
    )
    repository.store.put(key, record)
    assert repository.fetches.record_of(job) is None
    assert repository.fetches.take("job-1") is not None


def test_a_record_of_a_newer_version_is_read() -> None:
    document = {**to_document(FetchRecord(attempts=2)), "mood": "good"}
    assert read(FetchRecord, json.dumps(document).encode()).attempts == 2


@pytest.mark.parametrize("request_json", UNREADABLE_REQUESTS)
def test_a_marker_without_a_readable_request_is_parked(
    repository: JobRepository, request_json: bytes | None
) -> None:
    put_unreadable(repository, keys.fetching("job-1"), keys.request("job-1"), request_json)
    assert repository.fetches.take("job-1") is None
    assert repository.claims.claim(waiting_uuids(repository, 10), "key") == []
    assert markers(repository) == set()
    assert repository.store.head(keys.parked("job-1"))


# Jobs of a version that fetched in the run


def test_a_waiting_job_without_its_picture_goes_to_be_fetched(repository: JobRepository) -> None:
    accept(repository)
    repository.store.delete(keys.fetching("job-1"))
    repository.store.put(keys.inbox("job-1"), b"")
    assert repository.claims.claim(["job-1"], "key") == []
    assert (markers(repository), repository.status("job-1")) == (
        {"fetching/job-1"},
        JobStatus.QUEUED,
    )


def test_one_whose_picture_an_older_version_stored_is_claimed(repository: JobRepository) -> None:
    accept(repository)
    repository.store.delete(keys.fetching("job-1"))
    repository.store.put(keys.inbox("job-1"), b"")
    repository.store.put(keys.source_info("job-1"), b"{}")
    assert [claim.uuid for claim in repository.claims.claim(["job-1"], "key")] == ["job-1"]


def test_a_claimed_one_goes_back_and_is_claimed_again_with_its_picture(
    repository: JobRepository,
) -> None:
    job = accept(repository)
    repository.store.delete(keys.fetching("job-1"))
    repository.store.put(keys.inflight("job-1"), b"{}")
    repository.claims.fetch_first(job)
    assert markers(repository) == {"fetching/job-1"}
    bring_picture(repository)
    assert [claim.attempt for claim in repository.claims.claim(["job-1"], "key")] == [1]


def test_a_job_that_ended_may_be_fetched_again_and_stays_ended(repository: JobRepository) -> None:
    job = accept(repository)
    bring_picture(repository, error=FetchGivenUp("Away."))
    repository.claims.claim(["job-1"], "key")
    repository.results.finish(make_result("job-1", "failed", NOON))
    repository.fetches.add_again(job)
    assert (
        repository.fetches.take("job-1") or pytest.fail("nothing to fetch")
    ).record.attempts == 0
    assert list(repository.expiry.expired(NOON.replace(year=2100), 10)) == []
    bring_picture(repository)
    assert (markers(repository), repository.status("job-1")) == (set(), JobStatus.FAILED)
