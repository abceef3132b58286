"""The turns of waiting jobs: by their time, moved by their priority, nobody put off for ever."""

from datetime import datetime, timedelta

import pytest

from seg_pipeline.domain import Lane, Priority
from seg_pipeline.errors import FetchGivenUp
from seg_pipeline.jobs.fetches import FetchRecord, FetchState
from seg_pipeline.jobs.inbox_markers import is_failed_marker, lane, ready_marker, turn
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import ObjectInfo, keys
from seg_pipeline_tests.builders import NOON, make_job, make_result

LOW, NORMAL, HIGH = Priority.LOW, Priority.NORMAL, Priority.HIGH


def waiting(uuid: str, priority: Priority, minutes: float, via: str = "http") -> ObjectInfo:
    """The marker of a job that came so long after noon."""
    size = len(ready_marker(make_job(uuid, priority=priority, via=via)))
    return ObjectInfo(keys.inbox(uuid), size, NOON + timedelta(minutes=minutes))


def in_turn(*infos: ObjectInfo) -> list[str]:
    return [info.key.rpartition("/")[2] for info in sorted(infos, key=turn)]


def test_a_high_priority_moves_the_turn_by_ten_minutes_and_a_low_one_by_half_an_hour() -> None:
    jobs = (
        waiting("normal", NORMAL, 0),
        waiting("high-soon", HIGH, 9),
        waiting("high-late", HIGH, 12),
        waiting("low-long-ago", LOW, -32),
        waiting("low", LOW, -29),
    )
    assert in_turn(*jobs) == ["low-long-ago", "high-soon", "normal", "low", "high-late"]


def test_a_batchs_job_lets_jobs_of_their_own_go_first_for_an_hour() -> None:
    jobs = (
        waiting("batch-b-000000", NORMAL, 0),
        waiting("low", LOW, 29),
        waiting("late", NORMAL, 61),
    )
    assert in_turn(*jobs) == ["low", "batch-b-000000", "late"]


def test_a_message_lets_single_jobs_go_first_for_half_an_hour_unless_it_has_a_high_priority() -> (
    None
):
    jobs = (
        waiting("message", NORMAL, 0, via="sqs"),
        waiting("low-message", LOW, 0, via="sqs"),
        waiting("high-message", HIGH, 0, via="sqs"),
        waiting("batch-b-000000", NORMAL, 0),
        waiting("soon", NORMAL, 29),
        waiting("late", NORMAL, 31),
    )
    assert in_turn(*jobs) == [
        *("high-message", "soon", "message", "late"),
        *("low-message", "batch-b-000000"),
    ]


def test_a_job_that_let_others_go_first_for_long_enough_is_as_a_single_job() -> None:
    jobs = {
        "single": waiting("single", NORMAL, 0),
        "message": waiting("message", NORMAL, 0, via="sqs"),
        "low-message": waiting("low-message", LOW, 0, via="sqs"),
        "high-message": waiting("high-message", HIGH, 0, via="sqs"),
        "low": waiting("low", LOW, 0),
        "batch": waiting("batch-b-000000", NORMAL, 0),
    }

    def lanes(minutes: float) -> list[Lane]:
        now = NOON + timedelta(minutes=minutes)
        return [lane(info, now) for info in jobs.values()]

    single, queue, batch = Lane
    assert lanes(29) == [single, queue, queue, single, queue, batch]
    assert lanes(31) == [*[single] * 5, batch]
    assert lanes(61) == [single] * 6


@pytest.mark.parametrize("priority", Priority)
@pytest.mark.parametrize("via", ["http", "sqs"])
def test_a_run_of_a_lost_job_has_the_lane_in_which_the_job_waited(
    repository: JobRepository, via: str, priority: Priority
) -> None:
    repository.acceptance.accept(make_job("job-1", priority=priority, via=via), b"picture")
    waited_in = repository.claims.waiting(1).lanes["job-1"]
    (claim,) = repository.claims.claim(["job-1"], "run")
    assert claim.after_loss(NOON).lane is claim.lane is waited_in
    assert repository.claims.inflight() == [claim]


def test_each_marker_says_one_thing() -> None:
    made = {
        ready_marker(make_job(priority=priority, via=via))
        for priority in Priority
        for via in ("http", "sqs")
    }
    assert len({*map(len, made)}) == len(made) == 5
    assert not any(is_failed_marker(len(marker)) for marker in made)


def markers(repository: JobRepository) -> dict[str, bytes]:
    store = repository.store
    return {info.key.rpartition("/")[2]: store.get(info.key) for info in store.list(keys.INBOX)}


def test_an_upload_waits_with_its_priority_and_so_does_a_picture_that_was_fetched(
    repository: JobRepository,
) -> None:
    repository.acceptance.accept(make_job("upload", priority=HIGH), b"picture")
    for uuid in ("fetched", "refused"):
        address = make_job(uuid, priority=LOW, image_url="https://pictures.example/a.png")
        repository.acceptance.accept(address)
        if uuid == "fetched":
            record = FetchRecord(state=FetchState.FETCHED, size=7)
            repository.fetches.fetched(address, b"picture", record)
        else:
            repository.fetches.failed(address, FetchRecord().failed(FetchGivenUp("It is away.")))
    assert markers(repository) == {"upload": b"high", "fetched": b"low", "refused": b"failed"}
    waiting = repository.claims.waiting(10)
    assert (waiting.ready, waiting.failed) == (["upload", "fetched"], ["refused"])


def test_a_job_that_runs_again_keeps_its_priority(repository: JobRepository) -> None:
    repository.acceptance.accept(make_job("job-1", priority=HIGH), b"picture")
    repository.claims.claim(["job-1"], "run")
    repository.results.finish(make_result("job-1", "failed", NOON))
    repository.retries.request("job-1")
    assert markers(repository) == {"job-1": b"high"}


@pytest.mark.parametrize("priority", Priority)
def test_the_same_job_with_another_priority_is_the_same_job(
    repository: JobRepository, priority: Priority
) -> None:
    first = repository.acceptance.accept(make_job("job-1"), b"picture")
    again = repository.acceptance.accept(make_job("job-1", priority=priority), b"picture")
    assert (first.created, again.created) == (True, False)


def test_a_request_of_an_older_version_is_normal(repository: JobRepository) -> None:
    repository.acceptance.accept(make_job("job-1"), b"picture")
    stored = repository.store.get(keys.request("job-1"))
    old = stored.replace(b'"priority":"normal",', b"")
    assert old != stored
    repository.store.put(keys.request("job-1"), old)
    assert repository.job("job-1").priority is NORMAL
    assert isinstance(repository.job("job-1").accepted_at, datetime)
