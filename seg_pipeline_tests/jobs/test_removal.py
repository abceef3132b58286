"""Jobs are deleted, while others accept them again."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count, product

import pytest

from seg_pipeline.domain import JobStatus
from seg_pipeline.errors import JobConflict, JobNotFound
from seg_pipeline.jobs.acceptance import Accepted
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.jobs.stored_jobs import is_known
from seg_pipeline.store import Store, keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline_tests.builders import (
    make_job,
    waiting_uuids,
)
from seg_pipeline_tests.jobs.jobs_in_store import LATER, PICTURE, accept, all_keys, finish
from seg_pipeline_tests.unreliable import Meanwhile, Turns, UnreliableStore


@pytest.mark.parametrize("stage", ["waiting", "claimed", "completed", "failed"])
def test_a_deleted_job_leaves_nothing_behind(repository: JobRepository, stage: str) -> None:
    accept(repository, "a", "neighbour")
    before = {key for key in all_keys(repository) if "neighbour" in key}
    if stage == "claimed":
        repository.claims.claim(["a"], "a:1")
    elif stage != "waiting":
        finish(repository, "a", status=stage)
    repository.store.put(keys.mask("a", 0), b"mask")
    assert repository.removal.delete("a")
    assert all_keys(repository) == before
    assert not repository.removal.delete("a")
    with pytest.raises(JobNotFound):
        repository.status("a")


def test_a_deleted_uuid_may_be_used_for_something_else(repository: JobRepository) -> None:
    finish(repository, "a")
    repository.removal.delete("a")
    job = make_job("a", model="demo-sam2")
    assert repository.acceptance.accept(job, PICTURE) == Accepted(job, created=True)
    assert repository.status("a") is JobStatus.QUEUED


def test_a_job_accepted_while_its_predecessor_is_deleted_is_not_swept_away() -> None:
    """The app server uses a uuid again in the very moment in which the prune deletes it."""
    store = ObjectStore.in_memory()
    finish(JobRepository(store), "a")

    class Meanwhile(UnreliableStore):
        def create(self, key: str, data: bytes, *, lasting: bool = True) -> bool:
            created = self._store.create(key, data, lasting=lasting)
            if key == keys.inbox("a") and not self.calls["swept"]:
                self.calls["swept"] += 1
                JobRepository(self._store).removal.delete("a")
            return created

    JobRepository(store).removal.delete("a")
    repository = JobRepository(Meanwhile(store))
    assert repository.acceptance.accept(make_job("a"), PICTURE).created
    assert waiting_uuids(repository, 10) == ["a"]
    assert repository.job("a") == make_job("a")
    assert store.get(keys.source("a", "png")) == PICTURE


OTHER_PICTURE = b"PICTURE"


def job_to_delete(stage: str) -> JobRepository:
    """A store with a job that waits, is claimed or has ended, and has a mask."""
    repository = JobRepository(ObjectStore.in_memory())
    accept(repository, "a")
    if stage == "claimed":
        repository.claims.claim(["a"], "a:1")
    elif stage == "completed":
        finish(repository, "a")
    repository.store.put(keys.mask("a", 0), b"mask")
    return repository


class Poster:
    """Somebody who posts the uuid again: a job with another picture, as long, or the same one once
    more.

    `promised` are the bytes of the job that lives from then on. None while there is no answer, or
    when the job was known, so that the answer was about the former one.
    """

    def __init__(self, repository: JobRepository, data: bytes) -> None:
        self._repository, self._data = repository, data
        self.promised: bytes | None = None

    def post(self, store: Store | None = None) -> None:
        job = make_job("a") if self._data == PICTURE else make_job("a", source_sha256="cd" * 32)
        was_known = is_known(self._repository.store, "a")
        with suppress(JobConflict):
            accepted = JobRepository(store or self._repository.store).acceptance.accept(
                job, self._data
            )
            if accepted.created or not was_known:
                self.promised = self._data

    def check(self) -> None:
        """What was promised is there, and would be worked on."""
        if self.promised is not None:
            assert waiting_uuids(self._repository, 10) == ["a"]
            assert (
                self._repository.job("a").source_sha256
                == ("ab" if self._data == PICTURE else "cd") * 32
            )
            assert self._repository.store.get(keys.source("a", "png")) == self.promised
            assert self._repository.result("a") is None


def expire_all(repository: JobRepository) -> None:
    for job in JobRepository(repository.store).expiry.expired(LATER, 10):
        repository.expiry.expire(job)


DELETIONS: list[Callable[[JobRepository], object]] = [
    lambda repository: repository.removal.delete("a"),
    expire_all,
]


@pytest.mark.parametrize("data", [PICTURE, OTHER_PICTURE])
@pytest.mark.parametrize("deletion", DELETIONS)
@pytest.mark.parametrize("stage", ["waiting", "claimed", "completed"])
def test_a_uuid_that_is_posted_again_during_its_deletion_is_not_lost(
    stage: str, deletion: Callable[[JobRepository], object], data: bytes
) -> None:
    """At each moment of the deletion."""
    for moment in count():
        healthy = job_to_delete(stage)
        poster = Poster(healthy, data)
        store = Meanwhile(healthy.store, moment, poster.post)
        deletion(JobRepository(store))
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
        store = Meanwhile(healthy.store, moment, partial(healthy.removal.delete, "a"))
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
        JobRepository(Meanwhile(inner, begin + later, turns.end)).removal.delete("a")
        turns.end()
        poster.check()


def test_a_late_run_of_a_deleted_job_does_not_take_the_new_ones_marker() -> None:
    """At each moment of the clearing up after it."""
    for moment in count():
        healthy = JobRepository(ObjectStore.in_memory())
        healthy.store.put(keys.mask("a", 0), b"mask")
        poster = Poster(healthy, PICTURE)
        store = Meanwhile(healthy.store, moment, poster.post)
        JobRepository(store).removal.remove_leftovers("a")
        if not store.happened:
            return
        poster.check()
