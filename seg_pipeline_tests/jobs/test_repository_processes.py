"""The way of a job through the store, with several processes, and with killed ones."""

import os
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

import pytest

from seg_pipeline.domain import JobStatus
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.settings import Settings
from seg_pipeline.store import keys, open_store
from seg_pipeline_tests.builders import (
    make_job,
    make_result,
    orphans,
    waiting_uuids,
)
from seg_pipeline_tests.jobs.jobs_in_store import LATER, PICTURE, accept, everything, now_and_then
from seg_pipeline_tests.store.writers import (
    accept_at_once,
    claim_at_once,
    finish_at_once,
    work_for_ever,
)

SPAWN = get_context("spawn")


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
    name = "bucket_settings" if request.param == "s3" else "folder_settings"
    settings: Settings = request.getfixturevalue(name)
    return settings


@pytest.mark.slow
def test_of_processes_that_accept_the_same_uuid_at_once_one_makes_the_job(shared: Settings) -> None:
    uuids = [f"job-{number:02}" for number in range(20)]
    assert race(accept_at_once, shared, [make_job(uuid) for uuid in uuids]) == uuids
    repository = JobRepository(open_store(shared))
    assert sorted(waiting_uuids(repository, 100)) == uuids
    assert len(repository.claims.claim(uuids, "run")) == 20


@pytest.mark.slow
def test_of_processes_that_claim_the_same_job_at_once_one_gets_it(shared: Settings) -> None:
    uuids = [f"job-{number:02}" for number in range(20)]
    repository = JobRepository(open_store(shared))
    accept(repository, *uuids)
    assert race(claim_at_once, shared, uuids) == uuids
    assert waiting_uuids(repository, 100) == []
    assert [claim.uuid for claim in repository.claims.inflight()] == uuids


@pytest.mark.slow
def test_processes_that_finish_the_same_job_at_once_agree(shared: Settings) -> None:
    """A run that was believed dead and its successor may both come to the end."""
    uuids = [f"job-{number:02}" for number in range(10)]
    repository = JobRepository(open_store(shared))
    accept(repository, *uuids)
    repository.claims.claim(uuids, "run")
    race(finish_at_once, shared, uuids)
    assert repository.claims.inflight() == []
    assert everything(repository, 100) == [
        (uuid, str(repository.status(uuid))) for uuid in _by_status(repository, uuids)
    ]
    [*repository.expiry.expired(LATER, 100)]
    assert len([*repository.expiry.expired(LATER, 100)]) == 10


def _by_status(repository: JobRepository, uuids: list[str]) -> list[str]:
    return sorted(uuids, key=lambda uuid: (repository.status(uuid) is JobStatus.COMPLETED, uuid))


@pytest.mark.slow
def test_killed_processes_lose_no_job(folder_settings: Settings) -> None:
    """Accepts, claims and finishes in processes that are killed again and again; then all is
    brought to its end."""
    repository, moments = JobRepository(open_store(folder_settings)), (0.2, 0.35, 0.05, 0.5, 0.13)
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
    for claim in repository.claims.inflight():
        if not repository.results.settle(claim.uuid):
            assert repository.claims.reclaim(claim.after_loss(LATER))
            repository.results.finish(make_result(claim.uuid, "completed", LATER))
    for claim in repository.claims.claim(waiting_uuids(repository, 10_000), "rest"):
        repository.results.finish(make_result(claim.uuid, "completed", LATER))
    left = orphans(repository, now_and_then())
    assert len(left) <= len(moments)
    finished = {uuid for uuid, _ in everything(repository, 1000)}
    assert finished == set(repository.store.list_folders(keys.ASSETS)) - set(left)
    assert {repository.status(uuid) for uuid in finished} == {JobStatus.COMPLETED}
    assert all(repository.store.get(keys.source(uuid, "png")) == PICTURE for uuid in finished)
