"""Where a job stands, while others move it."""

from typing import Any

import pytest

from seg_pipeline.domain import JobStatus
from seg_pipeline.errors import InvalidKey, JobNotFound
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline_tests.builders import (
    make_heartbeat,
    make_result,
)
from seg_pipeline_tests.jobs.jobs_in_store import LATER, accept
from seg_pipeline_tests.unreliable import UnreliableStore


@pytest.mark.parametrize("uuid", ["", "../a", "a/b", ".", "a" * 1000])
def test_a_bad_uuid_is_no_job(repository: JobRepository, uuid: str) -> None:
    for ask in (repository.job, repository.status):
        with pytest.raises((JobNotFound, InvalidKey)):
            ask(uuid)


def test_an_unknown_job_is_not_found(repository: JobRepository) -> None:
    for ask in (repository.job, repository.status):
        with pytest.raises(JobNotFound):
            ask("nobody")
    assert repository.result("nobody") is None
    assert not repository.results.settle("nobody")


def test_a_job_is_processing_while_a_live_worker_names_it(repository: JobRepository) -> None:
    accept(repository, "a", "b")
    repository.claims.claim(["a", "b"], "a:1")
    heartbeats = [make_heartbeat("idle"), make_heartbeat("busy", uuids=("a",))]
    assert repository.status("a", heartbeats) is JobStatus.PROCESSING
    assert repository.status("b", heartbeats) is JobStatus.QUEUED
    repository.results.finish(make_result("a", "failed", LATER))
    assert repository.status("a", heartbeats) is JobStatus.FAILED


def test_a_job_that_is_finished_while_one_asks_is_not_lost() -> None:
    """Result, then markers: between the two looks the worker may do its last two writes."""

    class Late(UnreliableStore):
        def head(self, key: str) -> Any:
            if key == keys.inflight("a"):
                JobRepository(self._store).results.finish(make_result("a", "completed", LATER))
            return self._store.head(key)

    store = ObjectStore.in_memory()
    accept(JobRepository(store), "a")
    JobRepository(store).claims.claim(["a"], "a:1")
    assert JobRepository(Late(store)).status("a") is JobStatus.COMPLETED


def test_a_job_that_is_claimed_while_one_asks_is_not_lost() -> None:
    class Meanwhile(UnreliableStore):
        def head(self, key: str) -> Any:
            info = self._store.head(key)
            if key in (keys.inbox("a"), keys.inflight("a")):
                JobRepository(self._store).claims.claim(["a"], "a:1")
            return info

    store = ObjectStore.in_memory()
    accept(JobRepository(store), "a")
    assert JobRepository(Meanwhile(store)).status("a") is JobStatus.QUEUED
