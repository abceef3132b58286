"""The way of a job through the store, on every kind of store, interrupted at every write, by
several processes."""

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count, product
from multiprocessing import get_context
from typing import Any

import pytest

from seg_pipeline.domain import JobStatus
from seg_pipeline.errors import InvalidKey, JobConflict, JobNotFound, StoreFull
from seg_pipeline.jobs.deliveries import Policy, Reply
from seg_pipeline.jobs.repository import (
    Accepted,
    Claim,
    ExpiredJob,
    Inbox,
    fingerprint,
    new_run_key,
)
from seg_pipeline.settings import Settings
from seg_pipeline.store import Store, keys, open_store
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline.store.serialization import read, to_document, write
from seg_pipeline_tests.builders import (
    NOON,
    bring_picture,
    make_beat,
    make_job,
    make_queue_job,
    make_result,
    orphans,
)
from seg_pipeline_tests.store.writers import (
    accept_at_once,
    claim_at_once,
    finish_at_once,
    work_for_ever,
)
from seg_pipeline_tests.unreliable import Killed, Meanwhile, Turns, UnreliableStore

SPAWN = get_context("spawn")
PICTURE = b"picture"
LATER = NOON + timedelta(hours=1)
AN_HOUR = timedelta(hours=1)
END = NOON.replace(year=2100)


@pytest.fixture
def inbox(store: Store) -> Inbox:
    return Inbox(store)


def accept(inbox: Inbox, *uuids: str) -> None:
    for uuid in uuids:
        inbox.accept(make_job(uuid), PICTURE)


def finish(
    inbox: Inbox, *uuids: str, status: str = "completed", expires_at: datetime = LATER
) -> None:
    """Takes waiting jobs all the way."""
    accept(inbox, *uuids)
    inbox.claim(uuids, "run")
    for uuid in uuids:
        inbox.finish(make_result(uuid, status, expires_at))


def all_keys(inbox: Inbox) -> set[str]:
    prefixes = [
        keys.ASSETS,
        keys.FETCHING,
        keys.INBOX,
        keys.INFLIGHT,
        keys.DONE,
        keys.EXPIRY,
        keys.PARKED,
    ]
    return {info.key for prefix in prefixes for info in inbox.store.list(prefix)}


def everything(inbox: Inbox, limit: int = 3, **asked: Any) -> list[tuple[str, str]]:
    """All pages of a listing, as pairs of uuid and status."""
    found, after = [], None
    while True:
        page = inbox.listing.page(asked.get("status"), after, limit, asked.get("live_beats", ()))
        assert len(page.jobs) <= limit
        found += [(entry.uuid, str(entry.status)) for entry in page.jobs]
        if page.next is None:
            return found
        after = page.next


# Accepting


def test_an_accepted_job_waits_with_its_bytes(inbox: Inbox) -> None:
    job = make_job("job-1")
    assert inbox.accept(job, PICTURE) == Accepted(job, created=True)
    assert inbox.waiting(10) == ["job-1"]
    assert inbox.job("job-1") == job
    assert inbox.store.get(keys.source("job-1", "png")) == PICTURE
    assert inbox.status("job-1") is JobStatus.QUEUED


def test_a_job_with_an_address_needs_no_bytes(inbox: Inbox) -> None:
    job = make_job(
        "job-1",
        image_url="https://example.com/a.png",
        resize=256,
        ttl_seconds=60,
        via="sqs",
        callback=True,
    )
    assert inbox.accept(job).created
    assert inbox.job("job-1") == job
    assert inbox.status("job-1") is JobStatus.QUEUED
    assert all_keys(inbox) == {"assets/job-1/request.json", "fetching/job-1"}


def test_an_upload_without_bytes_is_a_mistake_of_ours(inbox: Inbox) -> None:
    with pytest.raises(ValueError, match="needs its bytes"):
        inbox.accept(make_job("job-1"))
    with pytest.raises(ValueError, match="needs its bytes"):
        inbox.accept(make_job("job-1", image_url="https://example.com/a.png"), PICTURE)
    assert all_keys(inbox) == set()


def test_the_same_request_again_is_the_first_job(inbox: Inbox) -> None:
    """A client that got no answer sends it again; an SQS message comes twice."""
    first = make_job("job-1")
    inbox.accept(first, PICTURE)
    again = make_job("job-1", accepted_at=LATER, via="sqs", source_extension="bin")
    assert inbox.accept(again, PICTURE) == Accepted(first, created=False)
    assert inbox.waiting(10) == ["job-1"]
    assert all_keys(inbox) == {
        "assets/job-1/request.json",
        "assets/job-1/source.png",
        "inbox/job-1",
    }


@pytest.mark.parametrize("finished", [True, False])
def test_a_job_that_comes_by_the_queue_too_is_told_of_though_it_came_over_http_first(
    inbox: Inbox, finished: bool
) -> None:
    """The app server waits for its PATCH, whoever was first."""
    link = {"image_url": "https://example.com/a.png"}
    inbox.accept(make_job("job-1", **link))
    if finished:
        inbox.finish(make_result("job-1", "completed", LATER))
    again = inbox.accept(make_job("job-1", **link, via="sqs", callback=True))
    assert (again.created, again.job.callback, again.job.via) == (False, True, "http")
    if not finished:
        inbox.finish(make_result("job-1", "completed", LATER))
    assert inbox.outbox.uuids() == {"job-1"}


LINK = {"image_url": "https://example.com/a.png"}


def ask_by_queue(inbox: Inbox) -> None:
    inbox.accept(make_job("job-1", **LINK, via="sqs", callback=True))


def end_it(inbox: Inbox) -> None:
    inbox.finish(make_result("job-1", "completed", LATER))


def claimed_job() -> Store:
    """A store with a job that came over HTTP and is in flight."""
    inbox = Inbox(ObjectStore.in_memory())
    inbox.accept(make_job("job-1", **LINK))
    bring_picture(inbox)
    inbox.claim(["job-1"], "job-1:1")
    return inbox.store


def check_that_one_is_told_of(inbox: Inbox) -> None:
    """Of that very result, by one marker."""
    (marker,) = inbox.outbox.waiting(datetime.now(UTC) + AN_HOUR, 10)
    due_delivery = inbox.outbox.take(marker)
    assert due_delivery is not None
    assert due_delivery.result == inbox.result("job-1")


@pytest.mark.parametrize(("act", "meanwhile"), [(end_it, ask_by_queue), (ask_by_queue, end_it)])
def test_a_job_that_ends_while_the_queue_asks_for_it_is_told_of(
    act: Callable[[Inbox], None], meanwhile: Callable[[Inbox], None]
) -> None:
    """Each at every moment of the other."""
    for moment in count():
        healthy = Inbox(claimed_job())
        store = Meanwhile(healthy.store, moment, partial(meanwhile, healthy))
        act(Inbox(store))
        if not store.happened:
            assert moment > 5
            return
        check_that_one_is_told_of(healthy)


@pytest.mark.parametrize("lives", range(10))
def test_it_is_told_of_too_if_the_run_dies_in_the_middle(lives: int) -> None:
    """The sweeper settles the job or asks for it again, as long as it is in flight."""
    for moment in range(20):
        healthy = Inbox(claimed_job())
        with suppress(Killed):
            end_it(Inbox(Meanwhile(healthy.store, moment, partial(ask_by_queue, healthy), lives)))
        for claim in healthy.inflight():
            if not healthy.settle(claim.uuid):
                end_it(healthy)
        if healthy.job("job-1").callback:
            check_that_one_is_told_of(healthy)


@pytest.mark.parametrize("lives", range(4))
def test_it_is_told_of_too_if_the_intake_dies_in_the_middle(lives: int) -> None:
    """The message is still in the queue, and comes again."""
    for moment in range(20):
        healthy = Inbox(claimed_job())
        with suppress(Killed):
            ask_by_queue(Inbox(Meanwhile(healthy.store, moment, partial(end_it, healthy), lives)))
        if healthy.result("job-1") is None:
            end_it(healthy)
        ask_by_queue(healthy)
        check_that_one_is_told_of(healthy)


def test_a_message_that_comes_again_does_not_have_it_told_again(inbox: Inbox) -> None:
    ask_by_queue(inbox)
    end_it(inbox)
    delivery = inbox.outbox.delivery("job-1")
    assert delivery is not None
    delivered = delivery.after(Reply(0.1, 200), NOON, Policy(3600, 3600), keep_until=None)
    inbox.outbox.note(delivered, delivery)
    ask_by_queue(inbox)
    assert inbox.outbox.delivery("job-1") == delivered
    assert inbox.outbox.uuids() == set()


def test_a_job_from_the_queue_that_comes_over_http_too_is_still_told_of(inbox: Inbox) -> None:
    link = {"image_url": "https://example.com/a.png"}
    inbox.accept(make_job("job-1", **link, via="sqs", callback=True))
    assert inbox.accept(make_job("job-1", **link)).job.callback
    assert inbox.job("job-1").callback


@pytest.mark.parametrize(
    "other",
    [
        {"model": "demo-sam2"},
        {"resize": 64},
        {"ttl_seconds": 60},
        {"source_sha256": "cd" * 32},
        {"image_url": "https://example.com/a.png"},
    ],
)
def test_another_request_under_the_same_uuid_is_refused_and_leaves_no_trace(
    inbox: Inbox, other: dict[str, Any]
) -> None:
    accept(inbox, "job-1")
    before = {info.key: info for info in inbox.store.list(keys.ASSETS)}
    with pytest.raises(JobConflict):
        inbox.accept(
            make_job("job-1", **other), None if "image_url" in other else b"another picture"
        )
    assert {info.key: info for info in inbox.store.list(keys.ASSETS)} == before
    assert inbox.waiting(10) == ["job-1"]


@pytest.mark.parametrize("stage", ["claimed", "completed", "failed"])
def test_a_job_that_is_under_way_or_done_is_not_queued_again(inbox: Inbox, stage: str) -> None:
    if stage == "claimed":
        accept(inbox, "job-1")
        inbox.claim(["job-1"], "run")
    else:
        finish(inbox, "job-1", status=stage)
    before = all_keys(inbox)
    assert not inbox.accept(make_job("job-1"), PICTURE).created
    assert all_keys(inbox) == before
    assert inbox.waiting(10) == []


def test_asking_again_does_not_lose_ones_place(folder_store: Store) -> None:
    inbox = Inbox(folder_store)
    accept(inbox, "b")
    time.sleep(0.02)
    accept(inbox, "a")
    time.sleep(0.02)
    accept(inbox, "b")
    assert inbox.waiting(10) == ["b", "a"]


def test_the_longest_waiting_come_first(folder_settings: Settings) -> None:
    """By time and then by name; on S3 time has whole seconds."""
    inbox = Inbox(open_store(folder_settings))
    accept(inbox, "a", "b", "c", "d")
    for age, uuid in enumerate(["b", "d", "a", "c"]):
        stamp = NOON.timestamp() + age // 2
        os.utime(folder_settings.data_dir / "state/inbox" / uuid, (stamp, stamp))
    assert inbox.waiting(10) == ["b", "d", "a", "c"]
    assert inbox.waiting(3) == ["b", "d", "a"]


def test_thousands_may_wait_and_none_is_read_to_know_it() -> None:
    """The sensor looks several times a second."""
    store = UnreliableStore(ObjectStore.in_memory())
    for number in range(5000):
        store.put(keys.inbox(f"job-{number:04}"), b"")
    store.calls.clear()
    assert len(Inbox(store).waiting(32)) == 32
    assert store.calls == {"list": 1}


def test_thousands_of_files_wait_in_a_folder(folder_settings: Settings) -> None:
    folder = folder_settings.data_dir / "state/inbox"
    folder.mkdir(parents=True)
    for number in range(5000):
        (folder / f"job-{number:04}").touch()
    os.utime(folder / "job-4321", (1, 1))
    waiting = Inbox(open_store(folder_settings)).waiting(5000)
    assert waiting[0] == "job-4321"
    assert len(waiting) == 5000


def test_an_unreadable_request_is_replaced_by_the_next_one(inbox: Inbox) -> None:
    """A stranger's file must not block a uuid for ever."""
    inbox.store.put(keys.request("job-1"), b"")
    assert inbox.accept(make_job("job-1"), PICTURE).created
    assert inbox.job("job-1") == make_job("job-1")


def test_a_full_store_is_told_and_nothing_half_accepted_is_seen(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise StoreFull("no space left")

    monkeypatch.setattr(inbox.store, "put", full)
    with pytest.raises(StoreFull):
        inbox.accept(make_job("job-1"), PICTURE)
    assert inbox.waiting(10) == []
    with pytest.raises(JobNotFound):
        inbox.status("job-1")
    monkeypatch.undo()
    inbox.accept(make_job("job-1"), PICTURE)
    assert inbox.status("job-1") is JobStatus.QUEUED


class FullStore(UnreliableStore):
    """A store that has no space left for one key."""

    def __init__(self, store: Store, full: str) -> None:
        super().__init__(store)
        self._full = full

    def __getattr__(self, name: str) -> Any:
        method = super().__getattr__(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if name in ("put", "create") and self._full in args[0]:
                raise StoreFull("no space left")
            return method(*args, **kwargs)

        return call


@pytest.mark.parametrize("full", ["request.json", "source.png", keys.INBOX])
def test_a_full_store_keeps_nothing_and_the_uuid_is_free_for_any_request(
    store: Store, full: str
) -> None:
    """Half an acceptance once was no job for GET and DELETE, and a conflict for every other
    request."""
    with pytest.raises(StoreFull):
        Inbox(FullStore(store, full)).accept(make_job("job-1"), PICTURE)
    assert all_keys(Inbox(store)) == set()
    assert Inbox(store).accept(make_job("job-1", resize=64), PICTURE).created


def test_an_acceptance_that_is_taken_back_leaves_what_others_made_of_it_meanwhile() -> None:
    """The same request twice, and there was no space for the first one's marker: the second one's
    job is whole."""
    for moment in count():
        store = ObjectStore.in_memory()
        between = Meanwhile(
            store, moment, lambda store=store: Inbox(store).accept(make_job("job-1"), PICTURE)
        )
        with suppress(StoreFull):
            Inbox(FullStore(between, keys.INBOX)).accept(make_job("job-1"), PICTURE)
        if not between.happened:
            break
        inbox = Inbox(store)
        assert inbox.waiting(10) == ["job-1"], moment
        assert inbox.job("job-1") == make_job("job-1"), moment
        assert store.get(keys.source("job-1", "png")) == PICTURE, moment
    assert moment > 5


def test_another_request_replaces_an_acceptance_that_died_a_while_ago(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.store.create(keys.request("job-1"), write(make_job("job-1")))
    inbox.store.put(keys.source("job-1", "png"), b"of the first")
    other = make_job("job-1", source_extension="jpg", resize=64)
    with pytest.raises(JobConflict):
        inbox.accept(other, PICTURE)
    monkeypatch.setattr("seg_pipeline.jobs.repository._ACCEPTED_WITHIN", timedelta(seconds=-60))
    assert inbox.accept(other, PICTURE) == Accepted(other, created=True)
    assert (inbox.job("job-1"), inbox.waiting(10)) == (other, ["job-1"])
    assert keys.source("job-1", "png") not in all_keys(inbox)
    with pytest.raises(JobConflict):
        inbox.accept(make_job("job-1"), PICTURE)


@pytest.mark.parametrize("uuid", ["", "../a", "a/b", ".", "a" * 1000])
def test_a_bad_uuid_is_no_job(inbox: Inbox, uuid: str) -> None:
    for ask in (inbox.job, inbox.status):
        with pytest.raises((JobNotFound, InvalidKey)):
            ask(uuid)


def test_a_fingerprint_is_the_sha_256() -> None:
    assert fingerprint(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# Claiming


def test_claimed_jobs_are_in_flight_and_wait_no_more(inbox: Inbox) -> None:
    accept(inbox, "a", "b", "c")
    claims = inbox.claim(["a", "c"], "a:1")
    assert [(claim.uuid, claim.attempt, claim.run_key, claim.batch) for claim in claims] == [
        ("a", 1, "a:1", 2),
        ("c", 1, "a:1", 2),
    ]
    assert inbox.waiting(10) == ["b"]
    assert inbox.inflight() == claims
    assert inbox.claim_of("a") == claims[0]
    assert inbox.claim_of("b") is None
    assert inbox.status("a") is JobStatus.QUEUED


def test_a_job_is_claimed_once(inbox: Inbox) -> None:
    accept(inbox, "a", "b")
    assert len(inbox.claim(["a"], "a:1")) == 1
    assert [claim.uuid for claim in inbox.claim(["a", "b"], "a:1b")] == ["b"]
    assert inbox.claim_of("a").run_key == "a:1"  # type: ignore[union-attr]


def test_a_marker_of_a_finished_job_is_dropped(inbox: Inbox) -> None:
    """An acceptance that was repeated while the job was finished may leave one."""
    finish(inbox, "a")
    before = all_keys(inbox)
    inbox.store.put(keys.inbox("a"), b"")
    assert inbox.claim(["a"], "a:1") == []
    assert all_keys(inbox) == before


def test_a_marker_of_a_job_in_flight_is_dropped(inbox: Inbox) -> None:
    accept(inbox, "a")
    claims = inbox.claim(["a"], "a:1")
    inbox.store.put(keys.inbox("a"), b"")
    assert inbox.claim(["a"], "again") == []
    assert inbox.waiting(10) == []
    assert inbox.inflight() == claims


@pytest.mark.parametrize(
    "request_json", [None, b"", b"{", b"[]", b"{}", b'{"uuid": "../x", "model": "m"}', b"\xff"]
)
def test_a_marker_without_a_readable_request_is_parked_and_never_seen_again(
    inbox: Inbox, request_json: bytes | None
) -> None:
    inbox.store.put(keys.inbox("a"), b"")
    if request_json is not None:
        inbox.store.put(keys.request("a"), request_json)
    assert inbox.claim(["a"], "a:1") == []
    assert inbox.waiting(10) == []
    assert inbox.inflight() == []
    assert b"no readable request.json" in inbox.store.get(keys.parked("a"))


def test_a_parked_uuid_may_be_asked_for_again(inbox: Inbox) -> None:
    inbox.store.put(keys.inbox("a"), b"")
    inbox.claim(["a"], "a:1")
    accept(inbox, "a")
    assert [claim.uuid for claim in inbox.claim(["a"], "a:1")] == ["a"]


def test_a_job_that_somebody_deleted_is_not_claimed_and_not_parked(inbox: Inbox) -> None:
    accept(inbox, "a")
    inbox.delete("a")
    assert inbox.claim(["a"], "a:1") == []
    assert all_keys(inbox) == set()


def test_an_empty_claim_after_a_power_cut_is_a_first_attempt_by_no_run(inbox: Inbox) -> None:
    """The sweeper finds no such run, and asks again."""
    accept(inbox, "a")
    inbox.claim(["a"], "a:1")
    inbox.store.put(keys.inflight("a"), b"")
    (claim,) = inbox.inflight()
    assert (claim.uuid, claim.attempt, claim.run_key) == ("a", 1, "")
    assert claim.claimed_at.tzinfo


def test_a_claim_is_read_back_from_json_of_newer_versions() -> None:
    claim = Claim("a", 2, "a:2", NOON, 3)
    written = json.dumps({**to_document(claim), "priority": 1}).encode()
    assert read(Claim, written) == claim


def test_the_next_attempt_is_a_run_of_its_own(inbox: Inbox) -> None:
    accept(inbox, "a", "b")
    first, _ = inbox.claim(["a", "b"], "a:1")
    second = first.next_attempt(LATER)
    assert inbox.reclaim(second)
    assert (second.attempt, second.losses, second.batch) == (2, 0, 1)
    assert (second.run_key, second.claimed_at) == (new_run_key("a", 2, LATER), LATER)
    assert inbox.claim_of("a") == second


def test_a_run_that_was_lost_is_followed_by_the_same_attempt(inbox: Inbox) -> None:
    """Under another key all the same: Dagster makes no second run of one."""
    accept(inbox, "a", "b")
    first, _ = inbox.claim(["a", "b"], "a:1")
    once = first.after_loss(LATER)
    twice = once.after_loss(LATER)
    assert inbox.reclaim(once)
    assert inbox.reclaim(twice)
    assert inbox.claim_of("a") == twice
    assert (twice.attempt, twice.losses, twice.batch) == (1, 2, 1)
    assert len({first.run_key, once.run_key, twice.run_key, twice.next_attempt(LATER).run_key}) == 4


def test_a_claim_of_an_older_version_is_read(inbox: Inbox) -> None:
    accept(inbox, "a")
    older = {"uuid": "a", "attempt": 2, "run_key": "k", "claimed_at": NOON.isoformat()}
    inbox.store.put(keys.inflight("a"), json.dumps(older).encode())
    assert inbox.claim_of("a") == Claim("a", 2, "k", NOON)


def test_a_job_is_one_run_s_alone(inbox: Inbox) -> None:
    """A run that comes late finds its jobs with another, finished or gone."""
    accept(inbox, "a")
    (claim,) = inbox.claim(["a"], "a:1")
    assert inbox.is_claimed_for("a", "a:1")
    inbox.reclaim(claim.after_loss(LATER))
    assert not inbox.is_claimed_for("a", "a:1")
    finish(inbox, "b")
    assert not inbox.is_claimed_for("b", "b:1")
    assert not inbox.is_claimed_for("never-heard-of", "a:1")


def test_a_job_that_was_finished_meanwhile_is_not_asked_for_again(inbox: Inbox) -> None:
    accept(inbox, "a")
    (claim,) = inbox.claim(["a"], "a:1")
    inbox.finish(make_result("a", "completed", LATER))
    assert not inbox.reclaim(claim.after_loss(LATER))
    assert inbox.inflight() == []


def test_a_job_that_was_deleted_meanwhile_is_not_asked_for_again(inbox: Inbox) -> None:
    accept(inbox, "a")
    (claim,) = inbox.claim(["a"], "a:1")
    inbox.delete("a")
    assert not inbox.reclaim(claim.after_loss(LATER))
    assert all_keys(inbox) == set()


# Finishing


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_a_finished_job_has_its_document_and_its_markers(inbox: Inbox, status: str) -> None:
    accept(inbox, "a")
    inbox.claim(["a"], "a:1")
    assert inbox.result("a") is None
    result = make_result("a", status, LATER, model="ü")
    assert inbox.finish(result)
    assert inbox.result("a") == result
    assert inbox.status("a") is JobStatus(status)
    assert all_keys(inbox) == {
        "assets/a/request.json",
        "assets/a/source.png",
        "assets/a/result.json",
        f"done/{status}/a",
        keys.expiry(int(LATER.timestamp()), "a"),
    }


def test_finishing_twice_is_finishing_once(inbox: Inbox) -> None:
    finish(inbox, "a")
    before = all_keys(inbox)
    inbox.finish(make_result("a", "completed", LATER))
    assert all_keys(inbox) == before


def test_a_rerun_replaces_status_and_expiry(inbox: Inbox) -> None:
    finish(inbox, "a", status="failed")
    inbox.finish(make_result("a", "completed", LATER + AN_HOUR))
    assert inbox.status("a") is JobStatus.COMPLETED
    markers = {key for key in all_keys(inbox) if not key.startswith(keys.ASSETS)}
    assert markers == {"done/completed/a", keys.expiry(int((LATER + AN_HOUR).timestamp()), "a")}


def test_of_two_runs_that_finish_a_job_at_once_the_last_word_counts_everywhere() -> None:
    """Markers and result must not tell different stories."""

    class Meanwhile(UnreliableStore):
        def put(self, key: str, data: bytes) -> None:
            self._store.put(key, data)
            if key == keys.result("a"):
                Inbox(self._store).finish(make_result("a", "failed", LATER + AN_HOUR))

    inbox = Inbox(ObjectStore.in_memory())
    accept(inbox, "a")
    Inbox(Meanwhile(inbox.store)).finish(make_result("a", "completed", LATER))
    assert inbox.status("a") is JobStatus.FAILED
    assert everything(inbox) == [("a", "failed")]
    assert [*inbox.expired(LATER, 10)] == []
    assert len([*inbox.expired(LATER + AN_HOUR, 10)]) == 1


def test_of_several_runs_that_were_asked_for_the_first_to_finish_a_job_has_the_word(
    inbox: Inbox,
) -> None:
    """A worker that only seemed dead finishes it too. The app server must not hear another story
    from each."""
    inbox.accept(make_queue_job("a"))
    inbox.finish(make_result("a", "completed", LATER, width=1), keep_earlier=True)
    first, delivery = inbox.result("a"), inbox.outbox.delivery("a")
    assert inbox.finish(make_result("a", "failed", LATER + AN_HOUR, width=2), keep_earlier=True)
    assert (inbox.result("a"), inbox.outbox.delivery("a")) == (first, delivery)
    assert inbox.status("a") is JobStatus.COMPLETED


@pytest.mark.parametrize("moment", range(12))
def test_of_two_runs_that_finish_a_job_at_once_one_has_the_word_everywhere(moment: int) -> None:
    """Whatever the other has done by then: one result, one delivery, which is of that result."""
    inbox = Inbox(ObjectStore.in_memory())
    inbox.accept(make_queue_job("a"))

    def other() -> None:
        inbox.finish(make_result("a", "failed", LATER + AN_HOUR, width=2), keep_earlier=True)

    ours = Inbox(Meanwhile(inbox.store, moment, other))
    ours.finish(make_result("a", "completed", LATER, width=1), keep_earlier=True)
    told = [
        due_delivery
        for marker in inbox.outbox.waiting(END, 10)
        if (due_delivery := inbox.outbox.take(marker, END))
    ]
    assert [due_delivery.result for due_delivery in told] == [inbox.result("a")]
    assert {keys.done(str(inbox.status("a")), "a")} == {
        key for key in all_keys(inbox) if key.startswith(keys.DONE)
    }


def test_a_result_that_a_power_cut_left_empty_is_written_again(inbox: Inbox) -> None:
    accept(inbox, "a")
    inbox.store.put(keys.result("a"), b"")
    inbox.finish(make_result("a", "completed", LATER), keep_earlier=True)
    assert inbox.status("a") is JobStatus.COMPLETED


def test_a_job_that_nobody_claimed_may_be_finished(inbox: Inbox) -> None:
    """An operator materialises its partition while it waits."""
    accept(inbox, "a")
    inbox.finish(make_result("a", "completed", LATER))
    assert inbox.waiting(10) == []
    assert inbox.status("a") is JobStatus.COMPLETED


def test_a_job_that_was_deleted_while_it_was_worked_on_stays_deleted(inbox: Inbox) -> None:
    """Its worker knew nothing of it, and has written files since."""
    accept(inbox, "a")
    inbox.claim(["a"], "a:1")
    inbox.delete("a")
    inbox.store.put(keys.mask("a", 0), b"mask")
    assert not inbox.finish(make_result("a", "completed", LATER))
    assert all_keys(inbox) == set()


@pytest.mark.parametrize("status", ["queued", "processing", "done"])
def test_a_job_ends_completed_or_failed(inbox: Inbox, status: str) -> None:
    accept(inbox, "a")
    with pytest.raises(ValueError, match=status):
        inbox.finish(make_result("a", status, LATER))
    assert inbox.result("a") is None


def test_a_time_to_live_is_never_cut_short(inbox: Inbox) -> None:
    expires_at = NOON + timedelta(milliseconds=1)
    finish(inbox, "a", expires_at=expires_at)
    assert [*inbox.expired(NOON, 10)] == []
    assert [job.uuid for job in inbox.expired(NOON + timedelta(seconds=1), 10)] == ["a"]


def test_settling_completes_what_a_dead_worker_began(inbox: Inbox) -> None:
    accept(inbox, "a", "b")
    inbox.claim(["a", "b"], "a:1")
    inbox.store.put(keys.result("a"), write(make_result("a", expires_at=LATER)))
    assert inbox.settle("a")
    assert not inbox.settle("b")
    assert [claim.uuid for claim in inbox.inflight()] == ["b"]
    assert {"done/completed/a", keys.expiry(int(LATER.timestamp()), "a")} <= all_keys(inbox)


@pytest.mark.parametrize(
    "document",
    [b"", b"{", b"[]", b"{}", b'{"status": "completed"}', b'{"status": 1, "expires_at": 2}'],
)
def test_an_unreadable_result_is_none(inbox: Inbox, document: bytes) -> None:
    """After a power cut it may be empty; the job is then run again."""
    accept(inbox, "a")
    (claim,) = inbox.claim(["a"], "a:1")
    inbox.store.put(keys.result("a"), document)
    assert inbox.result("a") is None
    assert inbox.status("a") is JobStatus.QUEUED
    assert not inbox.settle("a")
    assert inbox.reclaim(claim.after_loss(LATER))


# Asking


def test_an_unknown_job_is_not_found(inbox: Inbox) -> None:
    for ask in (inbox.job, inbox.status):
        with pytest.raises(JobNotFound):
            ask("nobody")
    assert inbox.result("nobody") is None
    assert not inbox.settle("nobody")


def test_a_job_is_processing_while_a_live_worker_names_it(inbox: Inbox) -> None:
    accept(inbox, "a", "b")
    inbox.claim(["a", "b"], "a:1")
    heartbeats = [make_beat("idle"), make_beat("busy", uuids=("a",))]
    assert inbox.status("a", heartbeats) is JobStatus.PROCESSING
    assert inbox.status("b", heartbeats) is JobStatus.QUEUED
    inbox.finish(make_result("a", "failed", LATER))
    assert inbox.status("a", heartbeats) is JobStatus.FAILED


def test_a_job_that_is_finished_while_one_asks_is_not_lost() -> None:
    """Result, then markers: between the two looks the worker may do its last two writes."""

    class Late(UnreliableStore):
        def head(self, key: str) -> Any:
            if key == keys.inflight("a"):
                Inbox(self._store).finish(make_result("a", "completed", LATER))
            return self._store.head(key)

    store = ObjectStore.in_memory()
    accept(Inbox(store), "a")
    Inbox(store).claim(["a"], "a:1")
    assert Inbox(Late(store)).status("a") is JobStatus.COMPLETED


def test_a_job_that_is_claimed_while_one_asks_is_not_lost() -> None:
    class Meanwhile(UnreliableStore):
        def head(self, key: str) -> Any:
            info = self._store.head(key)
            if key in (keys.inbox("a"), keys.inflight("a")):
                Inbox(self._store).claim(["a"], "a:1")
            return info

    store = ObjectStore.in_memory()
    accept(Inbox(store), "a")
    assert Inbox(Meanwhile(store)).status("a") is JobStatus.QUEUED


# Deleting


@pytest.mark.parametrize("stage", ["waiting", "claimed", "completed", "failed"])
def test_a_deleted_job_leaves_nothing_behind(inbox: Inbox, stage: str) -> None:
    accept(inbox, "a", "neighbour")
    before = {key for key in all_keys(inbox) if "neighbour" in key}
    if stage == "claimed":
        inbox.claim(["a"], "a:1")
    elif stage != "waiting":
        finish(inbox, "a", status=stage)
    inbox.store.put(keys.mask("a", 0), b"mask")
    assert inbox.delete("a")
    assert all_keys(inbox) == before
    assert not inbox.delete("a")
    with pytest.raises(JobNotFound):
        inbox.status("a")


def test_a_deleted_uuid_may_be_used_for_something_else(inbox: Inbox) -> None:
    finish(inbox, "a")
    inbox.delete("a")
    job = make_job("a", model="demo-sam2")
    assert inbox.accept(job, PICTURE) == Accepted(job, created=True)
    assert inbox.status("a") is JobStatus.QUEUED


def test_a_job_accepted_while_its_predecessor_is_deleted_is_not_swept_away() -> None:
    """The app server uses a uuid again in the very moment in which the prune deletes it."""
    store = ObjectStore.in_memory()
    finish(Inbox(store), "a")

    class Meanwhile(UnreliableStore):
        def create(self, key: str, data: bytes) -> bool:
            created = self._store.create(key, data)
            if key == keys.inbox("a") and not self.calls["swept"]:
                self.calls["swept"] += 1
                Inbox(self._store).delete("a")
            return created

    Inbox(store).delete("a")
    inbox = Inbox(Meanwhile(store))
    assert inbox.accept(make_job("a"), PICTURE).created
    assert inbox.waiting(10) == ["a"]
    assert inbox.job("a") == make_job("a")
    assert store.get(keys.source("a", "png")) == PICTURE


OTHER_PICTURE = b"PICTURE"


def job_to_delete(stage: str) -> Inbox:
    """A store with a job that waits, is claimed or has ended, and has a mask."""
    inbox = Inbox(ObjectStore.in_memory())
    accept(inbox, "a")
    if stage == "claimed":
        inbox.claim(["a"], "a:1")
    elif stage == "completed":
        finish(inbox, "a")
    inbox.store.put(keys.mask("a", 0), b"mask")
    return inbox


class Poster:
    """Somebody who posts the uuid again: a job with another picture, as long, or the same one once
    more.

    `promised` are the bytes of the job that lives from then on. None while there is no answer, or
    when the job was known, so that the answer was about the former one.
    """

    def __init__(self, inbox: Inbox, data: bytes) -> None:
        self._inbox, self._data = inbox, data
        self.promised: bytes | None = None

    def post(self, store: Store | None = None) -> None:
        job = make_job("a") if self._data == PICTURE else make_job("a", source_sha256="cd" * 32)
        was_known = self._inbox._is_known("a")
        with suppress(JobConflict):
            accepted = Inbox(store or self._inbox.store).accept(job, self._data)
            if accepted.created or not was_known:
                self.promised = self._data

    def check(self) -> None:
        """What was promised is there, and would be worked on."""
        if self.promised is not None:
            assert self._inbox.waiting(10) == ["a"]
            assert (
                self._inbox.job("a").source_sha256 == ("ab" if self._data == PICTURE else "cd") * 32
            )
            assert self._inbox.store.get(keys.source("a", "png")) == self.promised
            assert self._inbox.result("a") is None


DELETIONS: list[Callable[[Inbox], object]] = [
    lambda inbox: inbox.delete("a"),
    lambda inbox: [inbox.expire(job) for job in Inbox(inbox.store).expired(LATER, 10)],
]


@pytest.mark.parametrize("data", [PICTURE, OTHER_PICTURE])
@pytest.mark.parametrize("deletion", DELETIONS)
@pytest.mark.parametrize("stage", ["waiting", "claimed", "completed"])
def test_a_uuid_that_is_posted_again_during_its_deletion_is_not_lost(
    stage: str, deletion: Callable[[Inbox], object], data: bytes
) -> None:
    """At each moment of the deletion."""
    for moment in count():
        healthy = job_to_delete(stage)
        poster = Poster(healthy, data)
        store = Meanwhile(healthy.store, moment, poster.post)
        deletion(Inbox(store))
        poster.check()
        if not store.happened:
            return


@pytest.mark.parametrize("data", [PICTURE, OTHER_PICTURE])
@pytest.mark.parametrize("stage", ["waiting", "claimed", "completed"])
def test_a_uuid_that_is_deleted_while_it_is_posted_again_is_not_lost(
    stage: str, data: bytes
) -> None:
    """At each moment of the acceptance; its answer comes after the deletion, and holds."""
    for moment in count():
        healthy = job_to_delete(stage)
        poster = Poster(healthy, data)
        store = Meanwhile(healthy.store, moment, partial(healthy.delete, "a"))
        poster.post(store)
        if not store.happened:
            return
        if healthy.store.head(keys.request("a")):
            poster.promised = data
        poster.check()


@pytest.mark.parametrize("data", [PICTURE, OTHER_PICTURE])
@pytest.mark.parametrize("stage", ["waiting", "completed"])
@pytest.mark.process
def test_however_an_acceptance_and_a_deletion_take_turns_the_job_is_not_lost(
    stage: str, data: bytes
) -> None:
    """The acceptance begins at each moment of the deletion, gets as far as each of its calls, and
    ends at each later moment."""
    for begin, calls, later in product(range(20), range(1, 7), range(1, 7)):
        healthy = job_to_delete(stage)
        poster = Poster(healthy, data)
        turns = Turns(poster.post, healthy.store, calls)
        inner = Meanwhile(healthy.store, begin, turns.begin)
        Inbox(Meanwhile(inner, begin + later, turns.end)).delete("a")
        turns.end()
        poster.check()


# Expiring


def test_a_prune_leaves_a_job_that_came_after_it_had_looked(inbox: Inbox) -> None:
    """It lists many expired jobs and deletes them later; meanwhile a client deletes one, and uses
    its uuid again."""
    finish(inbox, "a")
    (expired,) = inbox.expired(LATER, 10)
    inbox.delete("a")
    accept(inbox, "a")
    inbox.expire(expired)
    assert inbox.waiting(10) == ["a"]
    finish(inbox, "a", expires_at=LATER + AN_HOUR)
    inbox.expire(expired)
    assert inbox.status("a") is JobStatus.COMPLETED


def test_a_prune_leaves_an_orphan_that_was_accepted_after_it_had_looked(inbox: Inbox) -> None:
    """The client whose acceptance died asks again."""
    accept(inbox, "a")
    inbox.store.delete(keys.inbox("a"))
    (orphan,) = orphans(inbox, now_and_then())
    accept(inbox, "a")
    inbox.remove_leftovers(orphan)
    assert inbox.waiting(10) == ["a"]
    assert inbox.store.get(keys.source("a", "png")) == PICTURE


def test_a_late_run_of_a_deleted_job_does_not_take_the_new_ones_marker() -> None:
    """At each moment of the clearing up after it."""
    for moment in count():
        healthy = Inbox(ObjectStore.in_memory())
        healthy.store.put(keys.mask("a", 0), b"mask")
        poster = Poster(healthy, PICTURE)
        store = Meanwhile(healthy.store, moment, poster.post)
        Inbox(store).remove_leftovers("a")
        if not store.happened:
            return
        poster.check()


def test_a_marker_whose_job_is_accepted_while_it_is_parked_is_kept() -> None:
    for moment in count():
        healthy = Inbox(ObjectStore.in_memory())
        healthy.store.put(keys.inbox("a"), b"")
        store = Meanwhile(healthy.store, moment, partial(accept, healthy, "a"))
        claims = Inbox(store).claim(["a"], "a:1")
        if not store.happened:
            return
        assert claims or healthy.waiting(10) == ["a"]


def test_jobs_expire_in_the_order_of_their_times(inbox: Inbox) -> None:
    for uuid, hours in [("late", 3), ("early", 1), ("middle", 2), ("future", 9)]:
        finish(inbox, uuid, expires_at=NOON + hours * AN_HOUR)
    now = NOON + 4 * AN_HOUR
    assert [job.uuid for job in inbox.expired(now, 10)] == ["early", "middle", "late"]
    assert [job.uuid for job in inbox.expired(now, 2)] == ["early", "middle"]
    assert [*inbox.expired(NOON, 10)] == []
    first = next(inbox.expired(now, 10))
    assert first == ExpiredJob(
        "early", NOON + AN_HOUR, keys.expiry(int((NOON + AN_HOUR).timestamp()), "early")
    )


def test_pruning_while_listing_misses_nothing(inbox: Inbox) -> None:
    finish(inbox, *(f"job-{number:02}" for number in range(30)))
    for job in inbox.expired(LATER, 100):
        inbox.delete(job.uuid)
    assert all_keys(inbox) == set()


def test_a_job_under_way_does_not_expire(inbox: Inbox) -> None:
    """A rerun of an old job: waiting, in flight, or on a worker without either."""
    finish(inbox, "inflight", "waiting", "busy", "idle", expires_at=NOON)
    inbox.store.put(keys.inflight("inflight"), b"")
    inbox.store.put(keys.inbox("waiting"), b"")
    assert [job.uuid for job in inbox.expired(LATER, 10, busy={"busy"})] == ["idle"]
    assert [job.uuid for job in inbox.expired(LATER, 1, busy={"busy"})] == ["idle"]


def test_a_marker_that_a_rerun_left_behind_expires_nothing_and_goes(inbox: Inbox) -> None:
    finish(inbox, "a", expires_at=NOON)
    stale = keys.expiry(int(NOON.timestamp()), "a")
    inbox.finish(make_result("a", "completed", LATER))
    inbox.store.put(stale, b"")
    assert [*inbox.expired(NOON + timedelta(minutes=1), 10)] == []
    assert inbox.store.head(stale) is None
    assert [job.uuid for job in inbox.expired(LATER, 10)] == ["a"]


def test_a_strangers_expiry_marker_is_passed_over(inbox: Inbox) -> None:
    finish(inbox, "a", expires_at=NOON)
    inbox.store.put("expiry/nonsense", b"")
    inbox.store.put("expiry/000000000000-", b"")
    assert [job.uuid for job in inbox.expired(LATER, 10)] == ["a"]


# Orphans


def now_and_then() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=1)


def test_no_job_that_anybody_knows_of_is_an_orphan(inbox: Inbox) -> None:
    accept(inbox, "waiting", "claimed")
    inbox.claim(["claimed"], "run")
    finish(inbox, "completed")
    finish(inbox, "failed", status="failed")
    before = all_keys(inbox)
    assert orphans(inbox, now_and_then()) == []
    assert all_keys(inbox) == before


def test_an_acceptance_that_died_half_way_is_an_orphan_when_it_is_old(inbox: Inbox) -> None:
    accept(inbox, "a", "b")
    inbox.store.delete(keys.inbox("a"))
    assert orphans(inbox, now_and_then()) == ["a"]
    assert orphans(inbox, datetime.now(UTC) - AN_HOUR) == []


def test_files_without_a_request_are_orphans(inbox: Inbox) -> None:
    """A worker that went on after its job was deleted, and then died."""
    inbox.store.put(keys.mask("a", 0), b"mask")
    assert orphans(inbox, now_and_then()) == ["a"]
    inbox.delete("a")
    assert all_keys(inbox) == set()


def test_a_marker_of_a_job_of_which_nothing_else_is_left_is_an_orphan(inbox: Inbox) -> None:
    inbox.store.put(keys.done("completed", "a"), b"")
    assert orphans(inbox, now_and_then()) == ["a"]
    inbox.delete("a")
    assert all_keys(inbox) == set()


@pytest.mark.parametrize("lost", [(keys.DONE, keys.EXPIRY), (keys.EXPIRY,)])
def test_a_finished_job_without_markers_gets_them_back(inbox: Inbox, lost: tuple[str, ...]) -> None:
    """Or it would never expire."""
    finish(inbox, "a")
    before = all_keys(inbox)
    for key in before:
        if key.startswith(lost):
            inbox.store.delete(key)
    assert orphans(inbox, now_and_then()) == []
    assert all_keys(inbox) == before


# Crashes


def die_everywhere(
    store: Store, prepare: Callable[[Inbox, str], None], act: Callable[[Inbox, str], object]
) -> int:
    """Does `act` on a fresh uuid for each of its writes, killed before that write, then does it
    again unharmed.

    Compares what is in the store with what an `act` that was never killed leaves; returns the
    number of writes.
    """
    healthy = Inbox(store)
    prepare(healthy, "unharmed")
    act(healthy, "unharmed")
    expected = _about(healthy, "unharmed")
    for lives in count():
        uuid = f"killed-{lives}"
        prepare(healthy, uuid)
        try:
            act(Inbox(UnreliableStore(store, lives)), uuid)
        except Killed:
            act(healthy, uuid)
            assert _about(healthy, uuid) == expected, f"killed before write {lives}"
        else:
            assert _about(healthy, uuid) == expected
            return lives
    raise AssertionError("unreachable")


def _about(inbox: Inbox, uuid: str) -> set[str]:
    return {
        key.replace(uuid, "{uuid}")
        for key in all_keys(inbox)
        if uuid in key.replace("/", "-").split("-", 1)[1]
    }


def test_an_acceptance_killed_at_any_write_is_completed_by_asking_again(store: Store) -> None:
    writes = die_everywhere(store, lambda *_: None, accept)
    assert writes == 3


def test_an_acceptance_that_died_half_way_is_no_job_for_anybody(store: Store) -> None:
    """Never an answer for it, never a run: either it is asked for again, or it is an orphan."""
    for lives in range(3):
        inbox = Inbox(store)
        with pytest.raises(Killed):
            accept(Inbox(UnreliableStore(store, lives)), f"job-{lives}")
        with pytest.raises(JobNotFound):
            inbox.status(f"job-{lives}")
        assert inbox.waiting(10) == []
        assert everything(inbox) == []
    assert orphans(inbox, now_and_then()) == ["job-1", "job-2"]


def test_a_claim_killed_at_any_write_loses_and_doubles_nothing(store: Store) -> None:
    """If it dies after the job is in flight, the sensor never asked for the run: the sweeper
    does."""
    for lives in range(3):
        uuid = f"job-{lives}"
        accept(Inbox(store), uuid)
        inbox = Inbox(UnreliableStore(store, lives))
        try:
            claimed = len(inbox.claim([uuid], f"{uuid}:1"))
        except Killed:
            claimed = 0
        again = len(Inbox(store).claim([uuid], f"{uuid}:1"))
        assert [claim.uuid for claim in Inbox(store).inflight()] == [uuid]
        assert Inbox(store).waiting(10) == []
        assert (claimed, again) == {0: (0, 1), 1: (0, 0), 2: (1, 0)}[lives]
        Inbox(store).finish(make_result(uuid, "completed", LATER))


def test_a_finish_killed_at_any_write_is_completed_by_finishing_again(store: Store) -> None:
    writes = die_everywhere(
        store, _claimed, lambda inbox, uuid: inbox.finish(make_result(uuid, "completed", LATER))
    )
    assert writes == 7


def test_a_finish_killed_after_the_result_is_completed_by_settling(store: Store) -> None:
    inbox = Inbox(store)
    for lives in range(1, 6):
        uuid = f"job-{lives}"
        _claimed(inbox, uuid)
        with pytest.raises(Killed):
            Inbox(UnreliableStore(store, lives)).finish(make_result(uuid, "completed", LATER))
        assert inbox.status(uuid) is JobStatus.COMPLETED
        assert inbox.settle(uuid)
    finish(inbox, "unharmed")
    expected = _about(inbox, "unharmed")
    assert all(_about(inbox, f"job-{lives}") == expected for lives in range(1, 6))


def test_a_rerun_killed_at_any_write_is_completed_by_another(store: Store) -> None:
    def prepare(inbox: Inbox, uuid: str) -> None:
        finish(inbox, uuid, status="failed", expires_at=NOON)

    def rerun(inbox: Inbox, uuid: str) -> None:
        inbox.finish(make_result(uuid, "completed", LATER))
        [
            *inbox.expired(NOON + timedelta(minutes=1), 10)
        ]  # the hourly prune removes what a dead rerun left

    die_everywhere(store, prepare, rerun)


def test_a_deletion_killed_at_any_write_is_completed_by_deleting_again(store: Store) -> None:
    def delete(inbox: Inbox, uuid: str) -> None:
        inbox.delete(uuid)
        for job in inbox.expired(LATER, 10):  # the marker whose name only the result told
            inbox.store.delete(job.key)

    die_everywhere(store, finish, delete)


def test_what_is_half_deleted_is_not_served(store: Store) -> None:
    """Whoever is answered finds all that the answer names."""
    inbox = Inbox(store)
    for lives in range(1, 10):
        uuid = f"job-{lives}"
        finish(inbox, uuid)
        store.put(keys.mask(uuid, 0), b"mask")
        with pytest.raises(Killed):
            Inbox(UnreliableStore(store, lives)).delete(uuid)
        if inbox.result(uuid):
            assert store.get(keys.mask(uuid, 0)) == b"mask"
            assert inbox.job(uuid)
        else:
            with pytest.raises(JobNotFound):
                inbox.status(uuid)


def test_the_prune_finds_what_a_dead_prune_left(store: Store) -> None:
    """Each job is either in the list of the expired or an orphan, until nothing of it is left."""
    inbox = Inbox(store)
    for lives in range(12):
        finish(inbox, f"job-{lives}")
        with suppress(Killed):
            Inbox(UnreliableStore(store, lives)).delete(f"job-{lives}")
    for job in inbox.expired(LATER, 100):
        inbox.expire(job)
    for uuid in orphans(inbox, now_and_then()):
        inbox.remove_leftovers(uuid)
    assert all_keys(inbox) == set()


def _claimed(inbox: Inbox, uuid: str) -> None:
    accept(inbox, uuid)
    inbox.claim([uuid], f"{uuid}:1")


# Several processes


def race(
    target: Callable[..., None], settings: Settings, work: list[Any], processes: int = 3
) -> list[str]:
    """Each process does all of the work, in step with the others; what they say they did, as
    `uuid/process`."""
    with SPAWN.Manager() as manager:
        done, start = manager.dict(), SPAWN.Barrier(processes)
        racers = [
            SPAWN.Process(target=target, args=(settings, work, start, done, number), daemon=True)
            for number in range(processes)
        ]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join(120)
        assert [racer.exitcode for racer in racers] == [0] * processes
        return sorted(key.split("/")[0] for key in done.keys())  # noqa: SIM118  a proxy does not iterate


@pytest.fixture(params=["folder", "s3"])
def shared(request: pytest.FixtureRequest) -> Settings:
    """Settings of a store that several processes can share."""
    return request.getfixturevalue(
        "bucket_settings" if request.param == "s3" else "folder_settings"
    )


@pytest.mark.slow
def test_of_processes_that_accept_the_same_uuid_at_once_one_makes_the_job(shared: Settings) -> None:
    uuids = [f"job-{number:02}" for number in range(20)]
    assert race(accept_at_once, shared, [make_job(uuid) for uuid in uuids]) == uuids
    inbox = Inbox(open_store(shared))
    assert sorted(inbox.waiting(100)) == uuids
    assert len(inbox.claim(uuids, "run")) == 20


@pytest.mark.slow
def test_of_processes_that_claim_the_same_job_at_once_one_gets_it(shared: Settings) -> None:
    uuids = [f"job-{number:02}" for number in range(20)]
    inbox = Inbox(open_store(shared))
    accept(inbox, *uuids)
    assert race(claim_at_once, shared, uuids) == uuids
    assert inbox.waiting(100) == []
    assert [claim.uuid for claim in inbox.inflight()] == uuids


@pytest.mark.slow
def test_processes_that_finish_the_same_job_at_once_agree(shared: Settings) -> None:
    """A run that was believed dead and its successor may both come to the end."""
    uuids = [f"job-{number:02}" for number in range(10)]
    inbox = Inbox(open_store(shared))
    accept(inbox, *uuids)
    inbox.claim(uuids, "run")
    race(finish_at_once, shared, uuids)
    assert inbox.inflight() == []
    assert everything(inbox, 100) == [
        (uuid, str(inbox.status(uuid))) for uuid in _by_status(inbox, uuids)
    ]
    [*inbox.expired(LATER, 100)]
    assert len([*inbox.expired(LATER, 100)]) == 10


def _by_status(inbox: Inbox, uuids: list[str]) -> list[str]:
    return sorted(uuids, key=lambda uuid: (inbox.status(uuid) is JobStatus.COMPLETED, uuid))


@pytest.mark.slow
def test_killed_processes_lose_no_job(folder_settings: Settings) -> None:
    """Accepts, claims and finishes in processes that are killed again and again; then all is
    brought to its end."""
    inbox, moments = Inbox(open_store(folder_settings)), (0.2, 0.35, 0.05, 0.5, 0.13)
    for turn, moment in enumerate(moments):
        ready = SPAWN.Event()
        worker = SPAWN.Process(
            target=work_for_ever, args=(folder_settings, f"turn-{turn}", ready), daemon=True
        )
        worker.start()
        assert ready.wait(60)
        time.sleep(moment)
        os.kill(worker.pid or 0, signal.SIGKILL)
        worker.join(60)
    for claim in inbox.inflight():
        if not inbox.settle(claim.uuid):
            assert inbox.reclaim(claim.after_loss(LATER))
            inbox.finish(make_result(claim.uuid, "completed", LATER))
    for claim in inbox.claim(inbox.waiting(10_000), "rest"):
        inbox.finish(make_result(claim.uuid, "completed", LATER))
    left = orphans(inbox, now_and_then())
    assert len(left) <= len(moments)
    finished = {uuid for uuid, _ in everything(inbox, 1000)}
    assert finished == set(inbox.store.list_folders(keys.ASSETS)) - set(left)
    assert {inbox.status(uuid) for uuid in finished} == {JobStatus.COMPLETED}
    assert all(inbox.store.get(keys.source(uuid, "png")) == PICTURE for uuid in finished)
