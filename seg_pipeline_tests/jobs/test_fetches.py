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
from seg_pipeline.jobs.repository import Inbox
from seg_pipeline.store import Store, keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline.store.serialization import read, to_document
from seg_pipeline_tests.builders import NOON, bring_picture, make_job, make_result
from seg_pipeline_tests.unreliable import Killed, Turns, UnreliableStore

LINK = {"image_url": "https://pictures.example/a.png"}


@pytest.fixture
def inbox(store: Store) -> Inbox:
    return Inbox(store)


def accept(inbox: Inbox, uuid: str = "job-1", **asked: object) -> Job:
    return inbox.accept(make_job(uuid, **{**LINK, **asked})).job


def markers(inbox: Inbox) -> set[str]:
    prefixes = (keys.FETCHING, keys.INBOX, keys.INFLIGHT)
    return {info.key for prefix in prefixes for info in inbox.store.list(prefix)}


def test_a_job_with_an_address_is_fetched_before_anybody_can_claim_it(inbox: Inbox) -> None:
    job = accept(inbox)
    assert (inbox.fetches.uuids(), inbox.waiting(10), inbox.status("job-1")) == (
        ["job-1"],
        [],
        JobStatus.QUEUED,
    )
    pending = inbox.fetches.take("job-1")
    assert pending is not None
    assert (pending.job, pending.record.attempts) == (job, 0)
    bring_picture(inbox, data=b"bytes")
    assert (inbox.fetches.uuids(), inbox.waiting(10), inbox.status("job-1")) == (
        [],
        ["job-1"],
        JobStatus.QUEUED,
    )
    assert [claim.uuid for claim in inbox.claim(["job-1"], "key")] == ["job-1"]
    record = inbox.fetches.record_of(job)
    assert record is not None
    assert inbox.fetches.picture(job, record) == b"bytes"


@pytest.mark.parametrize(
    "error", [FetchGivenUp("Away."), FetchRejected("404."), UrlRefused("Private.")]
)
def test_a_picture_that_cannot_be_had_is_a_job_that_may_be_claimed_alone(
    inbox: Inbox, error: SegPipelineError
) -> None:
    accept(inbox)
    accept(inbox, "job-2")
    bring_picture(inbox, error=error)
    bring_picture(inbox, "job-2")
    assert inbox.waiting_by_picture(10) == (["job-2"], ["job-1"])
    (claim,) = inbox.claim(["job-1"], "key")
    record = inbox.fetches.record_of(inbox.job("job-1"))
    assert record is not None
    reason = record.error()
    assert (claim.attempt, type(reason), str(reason), reason.permanent) == (
        1,
        type(error),
        str(error),
        True,
    )


def test_a_retry_is_remembered(inbox: Inbox) -> None:
    job = accept(inbox)
    record = FetchRecord(attempts=2, due_at=NOON, code="fetch_unavailable", message="It is away.")
    inbox.fetches.retry(job, record)
    pending = Inbox(inbox.store).fetches.take("job-1")
    assert pending is not None
    assert pending.record == record
    assert inbox.status("job-1") is JobStatus.QUEUED


def test_asking_again_neither_fetches_twice_nor_forgets_the_tries(inbox: Inbox) -> None:
    job = accept(inbox)
    inbox.fetches.retry(job, FetchRecord(attempts=3))
    assert not inbox.accept(make_job("job-1", **LINK)).created
    assert (inbox.fetches.take("job-1") or pytest.fail("gone")).record.attempts == 3
    bring_picture(inbox)
    accept(inbox)
    assert markers(inbox) == {"inbox/job-1"}


def test_a_listing_has_each_job_once(inbox: Inbox) -> None:
    for uuid in ("a", "b", "c"):
        accept(inbox, uuid)
    bring_picture(inbox, "b")
    bring_picture(inbox, "c")
    inbox.claim(["c"], "key")
    inbox.store.put(keys.inbox("a"), b"")  # in the moment between two steps
    listed = inbox.listing.page(None, None, 10).jobs
    assert sorted((entry.uuid, str(entry.status)) for entry in listed) == [
        ("a", "queued"), ("b", "queued"), ("c", "queued"),
    ]  # fmt: skip
    assert len(inbox.listing.page(None, None, 2).jobs) == 2


# Deleting


@pytest.mark.parametrize("stage", ["accepted", "tried", "fetched", "failed", "claimed"])
def test_a_deleted_job_leaves_nothing_behind(inbox: Inbox, stage: str) -> None:
    job = accept(inbox)
    if stage == "tried":
        inbox.fetches.retry(job, FetchRecord(attempts=1))
    elif stage != "accepted":
        bring_picture(inbox, error=FetchGivenUp("Away.") if stage == "failed" else None)
    if stage == "claimed":
        inbox.claim(["job-1"], "key")
    assert inbox.delete("job-1")
    assert markers(inbox) | {info.key for info in inbox.store.list(keys.ASSETS)} == set()


def test_what_a_fetcher_brings_for_a_deleted_job_is_dropped(inbox: Inbox) -> None:
    job = accept(inbox)
    inbox.delete("job-1")
    inbox.fetches.fetched(job, b"late", FetchRecord(FetchState.FETCHED, size=4))
    inbox.fetches.failed(job, FetchRecord().failed(FetchRejected("404.")))
    inbox.fetches.retry(job, FetchRecord(attempts=1))
    assert markers(inbox) | {info.key for info in inbox.store.list(keys.ASSETS)} == set()


def test_nothing_of_a_deleted_job_is_taken_for_its_successors(inbox: Inbox) -> None:
    former = accept(inbox)
    inbox.fetches.retry(former, FetchRecord(attempts=3))
    inbox.delete("job-1")
    accept(inbox, image_url="https://elsewhere.example/b.png", accepted_at=NOON.replace(hour=13))
    inbox.fetches.fetched(former, b"another picture", FetchRecord(FetchState.FETCHED, size=15))
    pending = inbox.fetches.take("job-1")
    assert pending is not None
    assert (pending.record.attempts, inbox.waiting(10)) == (0, [])


CALLS = 40


def bring(job: Job, outcome: SegPipelineError | None, store: Store) -> None:
    """What a fetcher does that learned of the job before."""
    fetches = Inbox(store).fetches
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
        inbox = Inbox(ObjectStore.in_memory())
        job = accept(inbox)
        fetch = Turns(partial(bring, job, outcome), inbox.store, calls)
        fetch.begin()
        inbox.delete("job-1")
        if again:
            accept(inbox, accepted_at=NOON.replace(hour=13))
        fetch.end()
        for _ in range(2):  # a marker without its picture goes back to be fetched
            inbox.claim(inbox.waiting(10), "key")
            if inbox.fetches.uuids():
                bring_picture(inbox, error=outcome)
        assert (inbox.claim_of("job-1") is not None) or not again, calls


# Crashes


def until_killed(store: Store, lives: int, work: Callable[[Inbox], object]) -> bool:
    with suppress(Killed):
        work(Inbox(UnreliableStore(store, lives)))
        return False
    return True


@pytest.mark.parametrize("outcome", [None, FetchGivenUp("Away.")])
def test_a_fetcher_killed_at_any_write_loses_no_job(
    store: Store, outcome: SegPipelineError | None
) -> None:
    for lives in range(20):
        inbox, uuid = Inbox(store), f"job-{lives}"
        accept(inbox, uuid)
        was_killed = until_killed(
            store, lives, lambda dying, uuid=uuid: bring_picture(dying, uuid, error=outcome)
        )
        if inbox.fetches.take(uuid):  # the next fetcher completes it, or begins anew
            bring_picture(inbox, uuid, error=outcome)
        assert inbox.fetches.uuids() == []
        assert [claim.uuid for claim in inbox.claim(inbox.waiting(10), "key")] == [uuid]
        if not was_killed:
            return
    pytest.fail("it never came to its end")


def test_an_acceptance_killed_at_any_write_is_completed_by_asking_again(store: Store) -> None:
    for lives in range(5):
        uuid = f"job-{lives}"
        was_killed = until_killed(store, lives, lambda dying, uuid=uuid: accept(dying, uuid))
        accept(Inbox(store), uuid)
        assert uuid in Inbox(store).fetches.uuids()
        if not was_killed:
            return
    pytest.fail("it never came to its end")


def test_bytes_that_a_power_cut_took_are_fetched_again(inbox: Inbox) -> None:
    job = accept(inbox)
    bring_picture(inbox)
    (key,) = (
        info.key for info in inbox.store.list(keys.asset("job-1", "")) if "fetched-" in info.key
    )
    inbox.store.put(key, b"")
    assert inbox.claim(["job-1"], "key") == []
    assert markers(inbox) == {"fetching/job-1"}
    pending = inbox.fetches.take("job-1")
    assert pending is not None
    assert (pending.job, pending.record.attempts) == (job, 0)


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b'{"state": "lost", "due_at": "x"}', b"\xff"])
def test_an_unreadable_record_is_none(inbox: Inbox, record: bytes) -> None:
    job = accept(inbox)
    inbox.fetches.retry(job, FetchRecord(attempts=1))
    (key,) = (
        info.key for info in inbox.store.list(keys.asset("job-1", "")) if "fetch-" in info.key
    )
    inbox.store.put(key, record)
    assert inbox.fetches.record_of(job) is None
    assert inbox.fetches.take("job-1") is not None


def test_a_record_of_a_newer_version_is_read() -> None:
    document = {**to_document(FetchRecord(attempts=2)), "mood": "good"}
    assert read(FetchRecord, json.dumps(document).encode()).attempts == 2


@pytest.mark.parametrize("request_json", [None, b"", b"{", b"[]"])
def test_a_marker_without_a_readable_request_is_parked(
    inbox: Inbox, request_json: bytes | None
) -> None:
    inbox.store.put(keys.fetching("job-1"), b"")
    if request_json is not None:
        inbox.store.put(keys.request("job-1"), request_json)
    assert inbox.fetches.take("job-1") is None
    assert inbox.claim(inbox.waiting(10), "key") == []
    assert markers(inbox) == set()
    assert inbox.store.head(keys.parked("job-1"))


# Jobs of a version that fetched in the run


def test_a_waiting_job_without_its_picture_goes_to_be_fetched(inbox: Inbox) -> None:
    accept(inbox)
    inbox.store.delete(keys.fetching("job-1"))
    inbox.store.put(keys.inbox("job-1"), b"")
    assert inbox.claim(["job-1"], "key") == []
    assert (markers(inbox), inbox.status("job-1")) == ({"fetching/job-1"}, JobStatus.QUEUED)


def test_one_whose_picture_an_older_version_stored_is_claimed(inbox: Inbox) -> None:
    accept(inbox)
    inbox.store.delete(keys.fetching("job-1"))
    inbox.store.put(keys.inbox("job-1"), b"")
    inbox.store.put(keys.source_info("job-1"), b"{}")
    assert [claim.uuid for claim in inbox.claim(["job-1"], "key")] == ["job-1"]


def test_a_claimed_one_goes_back_and_is_claimed_again_with_its_picture(inbox: Inbox) -> None:
    job = accept(inbox)
    inbox.store.delete(keys.fetching("job-1"))
    inbox.store.put(keys.inflight("job-1"), b"{}")
    inbox.fetch_first(job)
    assert markers(inbox) == {"fetching/job-1"}
    bring_picture(inbox)
    assert [claim.attempt for claim in inbox.claim(["job-1"], "key")] == [1]


def test_a_job_that_ended_may_be_fetched_again_and_stays_ended(inbox: Inbox) -> None:
    job = accept(inbox)
    bring_picture(inbox, error=FetchGivenUp("Away."))
    inbox.claim(["job-1"], "key")
    inbox.finish(make_result("job-1", "failed", NOON))
    inbox.fetches.add_again(job)
    assert (inbox.fetches.take("job-1") or pytest.fail("nothing to fetch")).record.attempts == 0
    assert list(inbox.expired(NOON.replace(year=2100), 10)) == []
    bring_picture(inbox)
    assert (markers(inbox), inbox.status("job-1")) == (set(), JobStatus.FAILED)
