"""Jobs expire, and files that nothing leads to are found."""

from datetime import UTC, datetime, timedelta

import pytest

from seg_pipeline.domain import JobStatus
from seg_pipeline.jobs.expiry import ExpiredJob
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import keys
from seg_pipeline_tests.builders import (
    NOON,
    make_result,
    orphans,
    waiting_uuids,
)
from seg_pipeline_tests.jobs.jobs_in_store import (
    AN_HOUR,
    LATER,
    PICTURE,
    accept,
    all_keys,
    finish,
    now_and_then,
)


def test_a_prune_leaves_a_job_that_came_after_it_had_looked(repository: JobRepository) -> None:
    """It lists many expired jobs and deletes them later; meanwhile a client deletes one, and uses
    its uuid again."""
    finish(repository, "a")
    (expired,) = repository.expiry.expired(LATER, 10)
    repository.removal.delete("a")
    accept(repository, "a")
    repository.expiry.expire(expired)
    assert waiting_uuids(repository, 10) == ["a"]
    finish(repository, "a", expires_at=LATER + AN_HOUR)
    repository.expiry.expire(expired)
    assert repository.status("a") is JobStatus.COMPLETED


def test_a_prune_leaves_an_orphan_that_was_accepted_after_it_had_looked(
    repository: JobRepository,
) -> None:
    """The client whose acceptance died asks again."""
    accept(repository, "a")
    repository.store.delete(keys.inbox("a"))
    (orphan,) = orphans(repository, now_and_then())
    accept(repository, "a")
    repository.removal.remove_leftovers(orphan)
    assert waiting_uuids(repository, 10) == ["a"]
    assert repository.store.get(keys.source("a", "png")) == PICTURE


def test_jobs_expire_in_the_order_of_their_times(repository: JobRepository) -> None:
    for uuid, hours in [("late", 3), ("early", 1), ("middle", 2), ("future", 9)]:
        finish(repository, uuid, expires_at=NOON + hours * AN_HOUR)
    now = NOON + 4 * AN_HOUR
    assert [job.uuid for job in repository.expiry.expired(now, 10)] == ["early", "middle", "late"]
    assert [job.uuid for job in repository.expiry.expired(now, 2)] == ["early", "middle"]
    assert [*repository.expiry.expired(NOON, 10)] == []
    first = next(repository.expiry.expired(now, 10))
    assert first == ExpiredJob(
        "early", NOON + AN_HOUR, keys.expiry(int((NOON + AN_HOUR).timestamp()), "early")
    )


def test_pruning_while_listing_misses_nothing(repository: JobRepository) -> None:
    finish(repository, *(f"job-{number:02}" for number in range(30)))
    for job in repository.expiry.expired(LATER, 100):
        repository.removal.delete(job.uuid)
    assert all_keys(repository) == set()


def test_a_job_under_way_does_not_expire(repository: JobRepository) -> None:
    """A rerun of an old job: waiting, in flight, or on a worker without either."""
    finish(repository, "inflight", "waiting", "busy", "idle", expires_at=NOON)
    repository.store.put(keys.inflight("inflight"), b"")
    repository.store.put(keys.inbox("waiting"), b"")
    assert [job.uuid for job in repository.expiry.expired(LATER, 10, busy={"busy"})] == ["idle"]
    assert [job.uuid for job in repository.expiry.expired(LATER, 1, busy={"busy"})] == ["idle"]


def test_a_marker_that_a_rerun_left_behind_expires_nothing_and_goes(
    repository: JobRepository,
) -> None:
    finish(repository, "a", expires_at=NOON)
    stale = keys.expiry(int(NOON.timestamp()), "a")
    repository.results.finish(make_result("a", "completed", LATER))
    repository.store.put(stale, b"")
    assert [*repository.expiry.expired(NOON + timedelta(minutes=1), 10)] == []
    assert repository.store.head(stale) is None
    assert [job.uuid for job in repository.expiry.expired(LATER, 10)] == ["a"]


def test_a_strangers_expiry_marker_is_passed_over(repository: JobRepository) -> None:
    finish(repository, "a", expires_at=NOON)
    repository.store.put("expiry/nonsense", b"")
    repository.store.put("expiry/000000000000-", b"")
    assert [job.uuid for job in repository.expiry.expired(LATER, 10)] == ["a"]


def test_no_job_that_anybody_knows_of_is_an_orphan(repository: JobRepository) -> None:
    accept(repository, "waiting", "claimed")
    repository.claims.claim(["claimed"], "run")
    finish(repository, "completed")
    finish(repository, "failed", status="failed")
    before = all_keys(repository)
    assert orphans(repository, now_and_then()) == []
    assert all_keys(repository) == before


def test_an_acceptance_that_died_half_way_is_an_orphan_when_it_is_old(
    repository: JobRepository,
) -> None:
    accept(repository, "a", "b")
    repository.store.delete(keys.inbox("a"))
    assert orphans(repository, now_and_then()) == ["a"]
    assert orphans(repository, datetime.now(UTC) - AN_HOUR) == []


def test_files_without_a_request_are_orphans(repository: JobRepository) -> None:
    """A worker that went on after its job was deleted, and then died."""
    repository.store.put(keys.mask("a", 0), b"mask")
    assert orphans(repository, now_and_then()) == ["a"]
    repository.removal.delete("a")
    assert all_keys(repository) == set()


def test_a_marker_of_a_job_of_which_nothing_else_is_left_is_an_orphan(
    repository: JobRepository,
) -> None:
    repository.store.put(keys.done("completed", "a"), b"")
    assert orphans(repository, now_and_then()) == ["a"]
    repository.removal.delete("a")
    assert all_keys(repository) == set()


@pytest.mark.parametrize("lost", [(keys.DONE, keys.EXPIRY), (keys.EXPIRY,)])
def test_a_finished_job_without_markers_gets_them_back(
    repository: JobRepository, lost: tuple[str, ...]
) -> None:
    """Or it would never expire."""
    finish(repository, "a")
    before = all_keys(repository)
    for key in before:
        if key.startswith(lost):
            repository.store.delete(key)
    assert orphans(repository, now_and_then()) == []
    assert all_keys(repository) == before
