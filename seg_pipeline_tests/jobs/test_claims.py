"""Jobs wait, are claimed and claimed again."""

import json
import os
import time
from contextlib import suppress
from functools import partial
from itertools import count

import pytest

from seg_pipeline.domain import JobStatus
from seg_pipeline.jobs.claims import Claim, new_run_key
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.settings import Settings
from seg_pipeline.store import Store, keys, open_store
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline.store.serialization import read, to_document
from seg_pipeline_tests.builders import (
    NOON,
    make_result,
    waiting_uuids,
)
from seg_pipeline_tests.jobs.jobs_in_store import (
    LATER,
    UNREADABLE_REQUESTS,
    accept,
    all_keys,
    finish,
    put_unreadable,
)
from seg_pipeline_tests.unreliable import Killed, Meanwhile, UnreliableStore


def test_asking_again_does_not_lose_ones_place(folder_store: Store) -> None:
    repository = JobRepository(folder_store)
    accept(repository, "b")
    time.sleep(0.02)
    accept(repository, "a")
    time.sleep(0.02)
    accept(repository, "b")
    assert waiting_uuids(repository, 10) == ["b", "a"]


def test_the_longest_waiting_come_first(folder_settings: Settings) -> None:
    """By time and then by name; on S3 time has whole seconds."""
    repository = JobRepository(open_store(folder_settings))
    accept(repository, "a", "b", "c", "d")
    for age, uuid in enumerate(["b", "d", "a", "c"]):
        stamp = NOON.timestamp() + age // 2
        os.utime(folder_settings.data_dir / "state/inbox" / uuid, (stamp, stamp))
    assert waiting_uuids(repository, 10) == ["b", "d", "a", "c"]
    assert waiting_uuids(repository, 3) == ["b", "d", "a"]


def test_thousands_may_wait_and_none_is_read_to_know_it() -> None:
    """The sensor looks several times a second."""
    store = UnreliableStore(ObjectStore.in_memory())
    for number in range(5000):
        store.put(keys.inbox(f"job-{number:04}"), b"")
    store.calls.clear()
    assert len(waiting_uuids(JobRepository(store), 32)) == 32
    assert store.calls == {"list": 1}


def test_thousands_of_files_wait_in_a_folder(folder_settings: Settings) -> None:
    folder = folder_settings.data_dir / "state/inbox"
    folder.mkdir(parents=True)
    for number in range(5000):
        (folder / f"job-{number:04}").touch()
    os.utime(folder / "job-4321", (1, 1))
    waiting = waiting_uuids(JobRepository(open_store(folder_settings)), 5000)
    assert waiting[0] == "job-4321"
    assert len(waiting) == 5000


def test_claimed_jobs_are_in_flight_and_wait_no_more(repository: JobRepository) -> None:
    accept(repository, "a", "b", "c")
    claims = repository.claims.claim(["a", "c"], "a:1")
    assert [(claim.uuid, claim.attempt, claim.run_key, claim.batch) for claim in claims] == [
        ("a", 1, "a:1", 2),
        ("c", 1, "a:1", 2),
    ]
    assert waiting_uuids(repository, 10) == ["b"]
    assert repository.claims.inflight() == claims
    assert repository.claims.claim_of("a") == claims[0]
    assert repository.claims.claim_of("b") is None
    assert repository.status("a") is JobStatus.QUEUED


def test_a_job_is_claimed_once(repository: JobRepository) -> None:
    accept(repository, "a", "b")
    assert len(repository.claims.claim(["a"], "a:1")) == 1
    assert [claim.uuid for claim in repository.claims.claim(["a", "b"], "a:1b")] == ["b"]
    assert repository.claims.claim_of("a").run_key == "a:1"  # type: ignore[union-attr]


def test_a_marker_of_a_finished_job_is_dropped(repository: JobRepository) -> None:
    """An acceptance that was repeated while the job was finished may leave one."""
    finish(repository, "a")
    before = all_keys(repository)
    repository.store.put(keys.inbox("a"), b"")
    assert repository.claims.claim(["a"], "a:1") == []
    assert all_keys(repository) == before


def test_a_marker_of_a_job_in_flight_is_dropped(repository: JobRepository) -> None:
    accept(repository, "a")
    claims = repository.claims.claim(["a"], "a:1")
    repository.store.put(keys.inbox("a"), b"")
    assert repository.claims.claim(["a"], "again") == []
    assert waiting_uuids(repository, 10) == []
    assert repository.claims.inflight() == claims


@pytest.mark.parametrize("request_json", UNREADABLE_REQUESTS)
def test_a_marker_without_a_readable_request_is_parked_and_never_seen_again(
    repository: JobRepository, request_json: bytes | None
) -> None:
    put_unreadable(repository, keys.inbox("a"), keys.request("a"), request_json)
    assert repository.claims.claim(["a"], "a:1") == []
    assert waiting_uuids(repository, 10) == []
    assert repository.claims.inflight() == []
    assert b"no readable request.json" in repository.store.get(keys.parked("a"))


def test_a_parked_uuid_may_be_asked_for_again(repository: JobRepository) -> None:
    repository.store.put(keys.inbox("a"), b"")
    repository.claims.claim(["a"], "a:1")
    accept(repository, "a")
    assert [claim.uuid for claim in repository.claims.claim(["a"], "a:1")] == ["a"]


def test_a_job_that_somebody_deleted_is_not_claimed_and_not_parked(
    repository: JobRepository,
) -> None:
    accept(repository, "a")
    repository.removal.delete("a")
    assert repository.claims.claim(["a"], "a:1") == []
    assert all_keys(repository) == set()


def test_an_empty_claim_after_a_power_cut_is_a_first_attempt_by_no_run(
    repository: JobRepository,
) -> None:
    """The sweeper finds no such run, and asks again."""
    accept(repository, "a")
    repository.claims.claim(["a"], "a:1")
    repository.store.put(keys.inflight("a"), b"")
    (claim,) = repository.claims.inflight()
    assert (claim.uuid, claim.attempt, claim.run_key) == ("a", 1, "")
    assert claim.claimed_at.tzinfo


def test_a_claim_is_read_back_from_json_of_newer_versions() -> None:
    claim = Claim("a", 2, "a:2", NOON, 3)
    written = json.dumps({**to_document(claim), "colour": 1}).encode()
    assert read(Claim, written) == claim


def test_the_next_attempt_is_a_run_of_its_own(repository: JobRepository) -> None:
    accept(repository, "a", "b")
    first, _ = repository.claims.claim(["a", "b"], "a:1")
    second = first.next_attempt(LATER)
    assert repository.claims.reclaim(second)
    assert (second.attempt, second.losses, second.batch) == (2, 0, 1)
    assert (second.run_key, second.claimed_at) == (new_run_key("a", 2, LATER), LATER)
    assert repository.claims.claim_of("a") == second


def test_a_run_that_was_lost_is_followed_by_the_same_attempt(repository: JobRepository) -> None:
    """Under another key all the same: Dagster makes no second run of one."""
    accept(repository, "a", "b")
    first, _ = repository.claims.claim(["a", "b"], "a:1")
    once = first.after_loss(LATER)
    twice = once.after_loss(LATER)
    assert repository.claims.reclaim(once)
    assert repository.claims.reclaim(twice)
    assert repository.claims.claim_of("a") == twice
    assert (twice.attempt, twice.losses, twice.batch) == (1, 2, 1)
    assert len({first.run_key, once.run_key, twice.run_key, twice.next_attempt(LATER).run_key}) == 4


def test_a_claim_of_an_older_version_is_read(repository: JobRepository) -> None:
    accept(repository, "a")
    older = {"uuid": "a", "attempt": 2, "run_key": "k", "claimed_at": NOON.isoformat()}
    repository.store.put(keys.inflight("a"), json.dumps(older).encode())
    assert repository.claims.claim_of("a") == Claim("a", 2, "k", NOON)


def test_a_job_is_one_run_s_alone(repository: JobRepository) -> None:
    """A run that comes late finds its jobs with another, finished or gone."""
    accept(repository, "a")
    (claim,) = repository.claims.claim(["a"], "a:1")
    assert repository.claims.is_claimed_for("a", "a:1")
    repository.claims.reclaim(claim.after_loss(LATER))
    assert not repository.claims.is_claimed_for("a", "a:1")
    finish(repository, "b")
    assert not repository.claims.is_claimed_for("b", "b:1")
    assert not repository.claims.is_claimed_for("never-heard-of", "a:1")


def test_a_job_that_was_finished_meanwhile_is_not_asked_for_again(
    repository: JobRepository,
) -> None:
    accept(repository, "a")
    (claim,) = repository.claims.claim(["a"], "a:1")
    repository.results.finish(make_result("a", "completed", LATER))
    assert not repository.claims.reclaim(claim.after_loss(LATER))
    assert repository.claims.inflight() == []


def test_a_job_that_was_deleted_meanwhile_is_not_asked_for_again(repository: JobRepository) -> None:
    accept(repository, "a")
    (claim,) = repository.claims.claim(["a"], "a:1")
    repository.removal.delete("a")
    assert not repository.claims.reclaim(claim.after_loss(LATER))
    assert all_keys(repository) == set()


def test_a_marker_whose_job_is_accepted_while_it_is_parked_is_kept() -> None:
    for moment in count():
        healthy = JobRepository(ObjectStore.in_memory())
        healthy.store.put(keys.inbox("a"), b"")
        store = Meanwhile(healthy.store, moment, partial(accept, healthy, "a"))
        claims = JobRepository(store).claims.claim(["a"], "a:1")
        if not store.happened:
            return
        assert claims or waiting_uuids(healthy, 10) == ["a"]


def given_back(repository: JobRepository, *uuids: str) -> None:
    """Jobs that a run had claimed and not begun."""
    accept(repository, *uuids)
    repository.claims.claim(uuids, "first")
    repository.claims.give_back(uuids, "first")


def test_a_job_that_its_run_gave_back_waits_for_another(repository: JobRepository) -> None:
    given_back(repository, "a", "b")
    assert sorted(waiting_uuids(repository)) == ["a", "b"]
    assert not repository.claims.is_claimed_for("a", "first")
    assert repository.status("a") is JobStatus.QUEUED
    claims = repository.claims.claim(["a", "b"], "second")
    assert [(claim.uuid, claim.attempt, claim.losses) for claim in claims] == [
        ("a", 1, 0),
        ("b", 1, 0),
    ]
    assert repository.claims.is_claimed_for("a", "second")
    assert waiting_uuids(repository) == []


def test_a_run_gives_back_its_own_jobs_alone(repository: JobRepository) -> None:
    """Another run may have a job by now, or the job may have ended or be gone."""
    accept(repository, "a", "b")
    repository.claims.claim(["a", "b"], "second")
    finish(repository, "c")
    before = all_keys(repository)
    repository.claims.give_back(["a", "c", "never-heard-of"], "first")
    repository.claims.give_back(["b"], None)
    assert all_keys(repository) == before
    assert repository.claims.is_claimed_for("a", "second")


def test_a_job_given_back_that_was_deleted_meanwhile_leaves_nothing(
    repository: JobRepository,
) -> None:
    given_back(repository, "a")
    (claim,) = repository.claims.inflight()
    repository.removal.delete("a")
    repository.claims.complete(claim)
    assert all_keys(repository) == set()


def test_giving_back_killed_at_any_write_is_completed_by_the_sweeper(store: Store) -> None:
    for lives in range(3):
        uuid = f"job-{lives}"
        accept(JobRepository(store), uuid)
        JobRepository(store).claims.claim([uuid], "first")
        with suppress(Killed):
            JobRepository(UnreliableStore(store, lives)).claims.give_back([uuid], "first")
        repository = JobRepository(store)
        for claim in repository.claims.inflight():
            if claim.is_given_back:
                repository.claims.complete(claim)
        is_claimed = repository.claims.is_claimed_for(uuid, "first")
        assert is_claimed == (lives == 0)
        assert waiting_uuids(repository) == ([] if is_claimed else [uuid])
        finish(repository, uuid)


def test_the_sweeper_that_comes_late_makes_no_second_run(repository: JobRepository) -> None:
    """It read the claim before the sensor claimed the job again."""
    given_back(repository, "a")
    (late,) = repository.claims.inflight()
    repository.claims.claim(["a"], "second")
    repository.claims.complete(late)
    assert repository.claims.claim(["a"], "third") == []
    assert repository.claims.is_claimed_for("a", "second")
    assert waiting_uuids(repository) == []
