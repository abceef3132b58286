"""Jobs are accepted, on every kind of store."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import Any

import pytest

from seg_pipeline.domain import JobStatus
from seg_pipeline.errors import JobConflict, JobNotFound, StoreFull
from seg_pipeline.jobs.acceptance import Accepted, fingerprint
from seg_pipeline.jobs.deliveries import Policy, Reply
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline.store.serialization import write
from seg_pipeline_tests.builders import (
    NOON,
    bring_picture,
    make_job,
    make_result,
    waiting_uuids,
)
from seg_pipeline_tests.jobs.jobs_in_store import AN_HOUR, LATER, PICTURE, accept, all_keys, finish
from seg_pipeline_tests.unreliable import Killed, Meanwhile, UnreliableStore


def test_an_accepted_job_waits_with_its_bytes(repository: JobRepository) -> None:
    job = make_job("job-1")
    assert repository.acceptance.accept(job, PICTURE) == Accepted(job, created=True)
    assert waiting_uuids(repository, 10) == ["job-1"]
    assert repository.job("job-1") == job
    assert repository.store.get(keys.source("job-1", "png")) == PICTURE
    assert repository.status("job-1") is JobStatus.QUEUED


def test_a_job_with_an_address_needs_no_bytes(repository: JobRepository) -> None:
    job = make_job(
        "job-1",
        image_url="https://example.com/a.png",
        resize=256,
        ttl_seconds=60,
        via="sqs",
        callback=True,
    )
    assert repository.acceptance.accept(job).created
    assert repository.job("job-1") == job
    assert repository.status("job-1") is JobStatus.QUEUED
    assert all_keys(repository) == {"assets/job-1/request.json", "fetching/job-1"}


def test_an_upload_without_bytes_is_a_mistake_of_ours(repository: JobRepository) -> None:
    with pytest.raises(ValueError, match="needs its bytes"):
        repository.acceptance.accept(make_job("job-1"))
    with pytest.raises(ValueError, match="needs its bytes"):
        repository.acceptance.accept(
            make_job("job-1", image_url="https://example.com/a.png"), PICTURE
        )
    assert all_keys(repository) == set()


def test_the_same_request_again_is_the_first_job(repository: JobRepository) -> None:
    """A client that got no answer sends it again; an SQS message comes twice."""
    first = make_job("job-1")
    repository.acceptance.accept(first, PICTURE)
    again = make_job("job-1", accepted_at=LATER, via="sqs", source_extension="bin")
    assert repository.acceptance.accept(again, PICTURE) == Accepted(first, created=False)
    assert waiting_uuids(repository, 10) == ["job-1"]
    assert all_keys(repository) == {
        "assets/job-1/request.json",
        "assets/job-1/source.png",
        "inbox/job-1",
    }


@pytest.mark.parametrize("finished", [True, False])
def test_a_job_that_comes_by_the_queue_too_is_told_of_though_it_came_over_http_first(
    repository: JobRepository, finished: bool
) -> None:
    """The app server waits for its PATCH, whoever was first."""
    link = {"image_url": "https://example.com/a.png"}
    repository.acceptance.accept(make_job("job-1", **link))
    if finished:
        repository.results.finish(make_result("job-1", "completed", LATER))
    again = repository.acceptance.accept(make_job("job-1", **link, via="sqs", callback=True))
    assert (again.created, again.job.callback, again.job.via) == (False, True, "http")
    if not finished:
        repository.results.finish(make_result("job-1", "completed", LATER))
    assert repository.outbox.uuids() == {"job-1"}


LINK = {"image_url": "https://example.com/a.png"}


def ask_by_queue(repository: JobRepository) -> None:
    repository.acceptance.accept(make_job("job-1", **LINK, via="sqs", callback=True))


def end_it(repository: JobRepository) -> None:
    repository.results.finish(make_result("job-1", "completed", LATER))


def claimed_job() -> Store:
    """A store with a job that came over HTTP and is in flight."""
    repository = JobRepository(ObjectStore.in_memory())
    repository.acceptance.accept(make_job("job-1", **LINK))
    bring_picture(repository)
    repository.claims.claim(["job-1"], "job-1:1")
    return repository.store


def check_that_one_is_told_of(repository: JobRepository) -> None:
    """Of that very result, by one marker."""
    (marker,) = repository.outbox.waiting(datetime.now(UTC) + AN_HOUR, 10)
    due_delivery = repository.outbox.take(marker)
    assert due_delivery is not None
    assert due_delivery.result == repository.result("job-1")


@pytest.mark.parametrize(("act", "meanwhile"), [(end_it, ask_by_queue), (ask_by_queue, end_it)])
def test_a_job_that_ends_while_the_queue_asks_for_it_is_told_of(
    act: Callable[[JobRepository], None], meanwhile: Callable[[JobRepository], None]
) -> None:
    """Each at every moment of the other."""
    for moment in count():
        healthy = JobRepository(claimed_job())
        store = Meanwhile(healthy.store, moment, partial(meanwhile, healthy))
        act(JobRepository(store))
        if not store.happened:
            assert moment > 5
            return
        check_that_one_is_told_of(healthy)


@pytest.mark.parametrize("lives", range(10))
def test_it_is_told_of_too_if_the_run_dies_in_the_middle(lives: int) -> None:
    """The sweeper settles the job or asks for it again, as long as it is in flight."""
    for moment in range(20):
        healthy = JobRepository(claimed_job())
        with suppress(Killed):
            end_it(
                JobRepository(
                    Meanwhile(healthy.store, moment, partial(ask_by_queue, healthy), lives)
                )
            )
        for claim in healthy.claims.inflight():
            if not healthy.results.settle(claim.uuid):
                end_it(healthy)
        if healthy.job("job-1").callback:
            check_that_one_is_told_of(healthy)


@pytest.mark.parametrize("lives", range(4))
def test_it_is_told_of_too_if_the_intake_dies_in_the_middle(lives: int) -> None:
    """The message is still in the queue, and comes again."""
    for moment in range(20):
        healthy = JobRepository(claimed_job())
        with suppress(Killed):
            ask_by_queue(
                JobRepository(Meanwhile(healthy.store, moment, partial(end_it, healthy), lives))
            )
        if healthy.result("job-1") is None:
            end_it(healthy)
        ask_by_queue(healthy)
        check_that_one_is_told_of(healthy)


def test_a_message_that_comes_again_does_not_have_it_told_again(repository: JobRepository) -> None:
    ask_by_queue(repository)
    end_it(repository)
    delivery = repository.outbox.delivery("job-1")
    assert delivery is not None
    delivered = delivery.after(Reply(0.1, 200), NOON, Policy(3600, 3600), keep_until=None)
    repository.outbox.note(delivered, delivery)
    ask_by_queue(repository)
    assert repository.outbox.delivery("job-1") == delivered
    assert repository.outbox.uuids() == set()


def test_a_job_from_the_queue_that_comes_over_http_too_is_still_told_of(
    repository: JobRepository,
) -> None:
    link = {"image_url": "https://example.com/a.png"}
    repository.acceptance.accept(make_job("job-1", **link, via="sqs", callback=True))
    assert repository.acceptance.accept(make_job("job-1", **link)).job.callback
    assert repository.job("job-1").callback


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
    repository: JobRepository, other: dict[str, Any]
) -> None:
    accept(repository, "job-1")
    before = {info.key: info for info in repository.store.list(keys.ASSETS)}
    with pytest.raises(JobConflict):
        repository.acceptance.accept(
            make_job("job-1", **other), None if "image_url" in other else b"another picture"
        )
    assert {info.key: info for info in repository.store.list(keys.ASSETS)} == before
    assert waiting_uuids(repository, 10) == ["job-1"]


@pytest.mark.parametrize("stage", ["claimed", "completed", "failed"])
def test_a_job_that_is_under_way_or_done_is_not_queued_again(
    repository: JobRepository, stage: str
) -> None:
    if stage == "claimed":
        accept(repository, "job-1")
        repository.claims.claim(["job-1"], "run")
    else:
        finish(repository, "job-1", status=stage)
    before = all_keys(repository)
    assert not repository.acceptance.accept(make_job("job-1"), PICTURE).created
    assert all_keys(repository) == before
    assert waiting_uuids(repository, 10) == []


def test_an_unreadable_request_is_replaced_by_the_next_one(repository: JobRepository) -> None:
    """A stranger's file must not block a uuid for ever."""
    repository.store.put(keys.request("job-1"), b"")
    assert repository.acceptance.accept(make_job("job-1"), PICTURE).created
    assert repository.job("job-1") == make_job("job-1")


def test_a_full_store_is_told_and_nothing_half_accepted_is_seen(
    repository: JobRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise StoreFull("no space left")

    monkeypatch.setattr(repository.store, "put", full)
    with pytest.raises(StoreFull):
        repository.acceptance.accept(make_job("job-1"), PICTURE)
    assert waiting_uuids(repository, 10) == []
    with pytest.raises(JobNotFound):
        repository.status("job-1")
    monkeypatch.undo()
    repository.acceptance.accept(make_job("job-1"), PICTURE)
    assert repository.status("job-1") is JobStatus.QUEUED


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
        JobRepository(FullStore(store, full)).acceptance.accept(make_job("job-1"), PICTURE)
    assert all_keys(JobRepository(store)) == set()
    assert JobRepository(store).acceptance.accept(make_job("job-1", resize=64), PICTURE).created


def test_an_acceptance_that_is_taken_back_leaves_what_others_made_of_it_meanwhile() -> None:
    """The same request twice, and there was no space for the first one's marker: the second one's
    job is whole."""
    for moment in count():
        store = ObjectStore.in_memory()
        between = Meanwhile(
            store,
            moment,
            partial(JobRepository(store).acceptance.accept, make_job("job-1"), PICTURE),
        )
        with suppress(StoreFull):
            JobRepository(FullStore(between, keys.INBOX)).acceptance.accept(
                make_job("job-1"), PICTURE
            )
        if not between.happened:
            break
        repository = JobRepository(store)
        assert waiting_uuids(repository, 10) == ["job-1"], moment
        assert repository.job("job-1") == make_job("job-1"), moment
        assert store.get(keys.source("job-1", "png")) == PICTURE, moment
    assert moment > 5


def test_another_request_replaces_an_acceptance_that_died_a_while_ago(
    repository: JobRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.store.create(keys.request("job-1"), write(make_job("job-1")))
    repository.store.put(keys.source("job-1", "png"), b"of the first")
    other = make_job("job-1", source_extension="jpg", resize=64)
    with pytest.raises(JobConflict):
        repository.acceptance.accept(other, PICTURE)
    monkeypatch.setattr("seg_pipeline.jobs.acceptance._ACCEPTED_WITHIN", timedelta(seconds=-60))
    assert repository.acceptance.accept(other, PICTURE) == Accepted(other, created=True)
    assert (repository.job("job-1"), waiting_uuids(repository, 10)) == (other, ["job-1"])
    assert keys.source("job-1", "png") not in all_keys(repository)
    with pytest.raises(JobConflict):
        repository.acceptance.accept(make_job("job-1"), PICTURE)


def test_a_fingerprint_is_the_sha_256() -> None:
    assert fingerprint(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
