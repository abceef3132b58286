"""Results on their way to a real app server in a thread that has good and bad days."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from seg_client import is_genuine
from seg_pipeline.adapters.app_server import DeliveryLimits
from seg_pipeline.adapters.outbox_relay import AT_ONCE, OutboxRelay, RelayReport, RelayTiming
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.monitoring.service_state import (
    AppServerState,
    note_app_server_state,
    read_app_server_state,
)
from seg_pipeline.store import Store, keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline.telemetry.snapshots import current_samples
from seg_pipeline_tests.app_servers import Answer, AppServerDouble, app_server, hang, hang_up, say
from seg_pipeline_tests.builders import end_queue_job, waiting_uuids
from seg_pipeline_tests.conftest import make_settings
from seg_pipeline_tests.jobs.batches_in_store import accept_batch, advance, finish_waiting
from seg_pipeline_tests.unreliable import Killed, UnreliableStore

IMPATIENT = DeliveryLimits(total_seconds=0.3)


class Clock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def catch_up(self) -> None:
        """What was recorded by the system's clock is in the past now."""
        self.now = max(self.now, datetime.now(UTC))

    def pass_seconds(self, count: float) -> None:
        self.now += timedelta(seconds=count)


@pytest.fixture
def server() -> Iterator[AppServerDouble]:
    with app_server() as double:
        yield double


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def repository() -> JobRepository:
    return JobRepository(ObjectStore.in_memory())


def make_courier(
    store: Store, url: str, clock: Clock, limits: DeliveryLimits | None = None, **values: Any
) -> OutboxRelay:
    settings = make_settings(Path("nowhere"), app_server_url=url, **values)
    timing = RelayTiming(clock, lambda: 1.0, limits or DeliveryLimits())
    return OutboxRelay(store, settings, timing)


def end_jobs(repository: JobRepository, count: int, clock: Clock) -> list[str]:
    uuids = [f"job-{number:02}" for number in range(count)]
    for uuid in uuids:
        end_queue_job(repository, uuid, ended_at=clock())
    clock.catch_up()
    return uuids


def deliver_for(
    relay: OutboxRelay, clock: Clock, seconds: float, step: float = 1
) -> list[RelayReport]:
    """Rounds over a stretch of time."""
    rounds = []
    for _ in range(int(seconds / step)):
        rounds.append(relay.deliver())
        clock.pass_seconds(step)
    return rounds


def states(repository: JobRepository, uuids: list[str]) -> set[str]:
    return {str(delivery.state) for uuid in uuids if (delivery := repository.outbox.delivery(uuid))}


# Good days


def test_a_result_reaches_the_app_server(
    repository: JobRepository, server: AppServerDouble, clock: Clock
) -> None:
    end_queue_job(repository, ended_at=clock())
    clock.catch_up()
    done = make_courier(
        repository.store, server.url, clock, base_url="https://segments.example"
    ).deliver()
    (told,) = server.told
    assert (told.uuid, told.document["status"], len(told.document["segments"])) == (
        "job-1",
        "completed",
        2,
    )
    mask_url = told.document["segments"][0]["mask_url"]
    assert mask_url == "https://segments.example/assets/job-1/mask_images/mask_000.png"
    (delivered,) = done.ended
    assert (delivered.state, delivered.attempt_count, delivered.attempts[0].status) == (
        "delivered",
        1,
        200,
    )
    assert repository.store.list(keys.OUTBOX) == []


def test_a_failed_job_is_told_with_its_reason(
    repository: JobRepository, server: AppServerDouble, clock: Clock
) -> None:
    end_queue_job(repository, ended_at=clock(), failed=True)
    clock.catch_up()
    make_courier(repository.store, server.url, clock).deliver()
    assert server.told[0].document == {
        "uuid": "job-1",
        "status": "failed",
        "segments": [],
        "error": {"code": "not_an_image", "message": "No picture."},
    }


def test_a_job_whose_uuid_a_client_had_taken_is_told_under_that_uuid(
    repository: JobRepository, server: AppServerDouble, clock: Clock
) -> None:
    end_queue_job(repository, "queue-1", clock(), told_as="job-1")
    clock.catch_up()
    make_courier(repository.store, server.url, clock).deliver()
    (told,) = server.told
    assert (told.uuid, told.document["uuid"]) == ("job-1", "job-1")
    assert "/assets/queue-1/" in told.document["segments"][0]["mask_url"]


def test_what_was_told_is_not_told_again(
    repository: JobRepository, server: AppServerDouble, clock: Clock
) -> None:
    end_jobs(repository, 3, clock)
    relay = make_courier(repository.store, server.url, clock)
    assert [len(each.ended) for each in deliver_for(relay, clock, 3)] == [3, 0, 0]
    assert len(server.told) == 3


def test_a_few_are_under_way_at_once_and_not_more(repository: JobRepository, clock: Clock) -> None:
    """Each answer waits for as many requests as may come at once, so that the count is exact."""
    from threading import Barrier

    together = Barrier(AT_ONCE, timeout=30)

    def answer(handler: Any, double: AppServerDouble) -> None:
        together.wait()
        say()(handler, double)

    with app_server(answer) as server:
        uuids = end_jobs(repository, 3 * AT_ONCE, clock)
        make_courier(repository.store, server.url, clock).deliver()
        assert server.most_at_once == AT_ONCE
    assert states(repository, uuids) == {"delivered"}


def test_a_backlog_goes_out_oldest_first(
    repository: JobRepository, server: AppServerDouble, clock: Clock
) -> None:
    """Of those sent at once any may arrive first, and one that is held up arrives late. None
    overtakes more than are under way."""
    uuids = end_jobs(repository, 20, clock)
    make_courier(repository.store, server.url, clock).deliver()
    arrived = server.uuids()
    assert sorted(arrived) == uuids
    assert all(uuids.index(uuid) - arrived.index(uuid) < AT_ONCE for uuid in uuids)


def test_a_round_ends_early_if_it_is_asked_to(
    repository: JobRepository, server: AppServerDouble, clock: Clock
) -> None:
    end_jobs(repository, 20, clock)
    done = make_courier(repository.store, server.url, clock).deliver(lambda: len(server.told) < 2)
    assert 2 <= len(done.ended) < 2 + AT_ONCE


# Bad days


@pytest.mark.parametrize("trouble", [say(500), hang, hang_up, say(503, retry_after="5"), say(302),
                                     say(429), None],
                         ids=["500", "hanging", "hanging up", "503", "302", "429",
                              "not there"])  # fmt: skip
@pytest.mark.process
def test_an_app_server_down_for_ten_minutes_gets_every_result_in_order(
    repository: JobRepository, clock: Clock, trouble: Answer | None
) -> None:
    """Nobody hammers it meanwhile, and what came in between is not forgotten."""
    with app_server(trouble or say()) as server:
        uuids = end_jobs(repository, 30, clock)
        url = server.url if trouble else "http://127.0.0.1:9"
        relay = make_courier(
            repository.store, url, clock, IMPATIENT, callback_give_up_seconds=86_400
        )
        deliver_for(relay, clock, 600, step=10)
        attempts = sum(
            (repository.outbox.delivery(uuid) or pytest.fail(uuid)).attempt_count for uuid in uuids
        )
        assert attempts < 40
        assert relay.problem
        server.told.clear()
        server.answers[:] = [say()]
        recovered = make_courier_again(relay, server.url)
        deliver_for(recovered, clock, 60)
    arrived = server.uuids()
    assert sorted(arrived) == uuids
    first = arrived.pop(0)  # the one by which it was found out that the server is back
    others = [uuid for uuid in uuids if uuid != first]
    assert all(others.index(uuid) - arrived.index(uuid) < AT_ONCE for uuid in others)
    assert (states(repository, uuids), repository.store.list(keys.OUTBOX)) == ({"delivered"}, [])


def make_courier_again(relay: OutboxRelay, url: str) -> OutboxRelay:
    """The same courier, whose server is back at its address, and need not be quick."""
    relay._to.server._base_url, relay._to.server._limits = url, DeliveryLimits()
    return relay


@pytest.mark.parametrize(("asked", "seconds"), [("1800", 1800), ("90000", 3600)])
def test_a_retry_after_holds_though_the_server_answers_others_before(
    repository: JobRepository, clock: Clock, asked: str, seconds: float
) -> None:
    """What failed in the same row takes its old place, but nobody's request for peace is put
    aside."""
    with app_server(say(503, retry_after=asked), say(500)) as server:
        end_queue_job(repository, "patient", ended_at=clock())
        clock.catch_up()
        relay = make_courier(repository.store, server.url, clock)
        relay.deliver()
        began = clock()
        uuids = end_jobs(repository, 4, clock)
        relay.deliver()
        assert relay.thinks_it_is_down
        server.answers[:] = [say()]
        deliver_for(relay, clock, 120, step=10)
        assert (states(repository, uuids), states(repository, ["patient"])) == (
            {"delivered"},
            {"pending"},
        )
        while states(repository, ["patient"]) == {"pending"}:
            clock.pass_seconds(10)
            relay.deliver()
    assert seconds <= (clock() - began).total_seconds() <= seconds + 20


def test_while_it_is_down_one_at_a_time_is_tried(repository: JobRepository, clock: Clock) -> None:
    with app_server(say(500)) as server:
        end_jobs(repository, 30, clock)
        relay = make_courier(repository.store, server.url, clock)
        first = relay.deliver()
        assert len(first.put_off) <= 2 + AT_ONCE
        assert relay.thinks_it_is_down
        clock.pass_seconds(31)
        assert [len(relay.deliver().put_off) for _ in range(3)] == [1, 0, 0]


def test_a_restarted_courier_goes_on_where_the_old_one_was(
    repository: JobRepository, clock: Clock
) -> None:
    with app_server(say(500)) as server:
        uuids = end_jobs(repository, 10, clock)
        deliver_for(make_courier(repository.store, server.url, clock), clock, 60, step=5)
        server.answers[:] = [say()]
        deliver_for(make_courier(repository.store, server.url, clock), clock, 600, step=5)
    assert states(repository, uuids) == {"delivered"}


def test_one_that_always_fails_does_not_hold_up_the_others(
    repository: JobRepository, clock: Clock
) -> None:
    def only_one_fails(handler: Any, double: AppServerDouble) -> None:
        say(500 if handler.path.endswith("job-00") else 200)(handler, double)

    with app_server(only_one_fails) as server:
        uuids = end_jobs(repository, 12, clock)
        relay = make_courier(repository.store, server.url, clock)
        deliver_for(relay, clock, 300)
        assert states(repository, uuids[1:]) == {"delivered"}
        assert states(repository, uuids[:1]) == {"pending"}
        assert server.uuids().count("job-00") < 12
        end_queue_job(repository, "job-99", ended_at=clock())
        deliver_for(relay, clock, 60)
    assert states(repository, ["job-99"]) == {"delivered"}


def test_a_refusal_is_parked_at_once_and_says_nothing_about_the_server(
    repository: JobRepository, clock: Clock
) -> None:
    with app_server(say(404, b"unknown uuid")) as server:
        uuids = end_jobs(repository, 10, clock)
        relay = make_courier(repository.store, server.url, clock)
        done = relay.deliver()
        assert (len(done.ended), relay.thinks_it_is_down) == (10, False)
        deliver_for(relay, clock, 60)
    assert len(server.told) == 10
    assert states(repository, uuids) == {"parked"}
    assert {delivery.reason for delivery in done.ended} == {
        "the app server answered 404 Not Found: unknown uuid"
    }


@pytest.mark.process
def test_after_the_time_is_over_what_waited_is_parked_without_trying_each(
    repository: JobRepository, clock: Clock
) -> None:
    with app_server(say(500)) as server:
        uuids = end_jobs(repository, 40, clock)
        relay = make_courier(repository.store, server.url, clock, callback_give_up_seconds=3600)
        deliver_for(relay, clock, 3600 + 120, step=20)
        assert len(server.told) < 250
    assert states(repository, uuids) == {"parked"}
    deliveries = [repository.outbox.delivery(uuid) for uuid in uuids]
    assert all(each and "given up after 3600 s" in (each.reason or "") for each in deliveries)
    assert repository.outbox.uuids() == set(uuids)


def test_a_parked_one_that_is_replayed_arrives(repository: JobRepository, clock: Clock) -> None:
    with app_server(say(404), say(200)) as server:
        end_jobs(repository, 1, clock)
        relay = make_courier(repository.store, server.url, clock)
        relay.deliver()
        repository.outbox.replay("job-00", clock())
        (delivered,) = relay.deliver().ended
    assert (delivered.state, server.uuids()) == ("delivered", ["job-00", "job-00"])


# Our own bad days


def test_a_result_that_cannot_be_read_holds_up_nobody(
    repository: JobRepository, server: AppServerDouble, clock: Clock
) -> None:
    """It is as good as lost: the job is done again."""
    uuids = end_jobs(repository, 5, clock)
    broken = b'{"status": "completed", "expires_at": "2100-01-01T00:00:00+00:00"}'
    repository.store.put(keys.result("job-00"), broken)
    relay = make_courier(repository.store, server.url, clock)
    deliver_for(relay, clock, 10)
    assert states(repository, uuids[1:]) == {"delivered"}
    assert waiting_uuids(repository, 10) == ["job-00"]


@pytest.mark.parametrize("lives", range(4))
def test_a_courier_killed_at_any_write_tells_twice_at_worst(
    repository: JobRepository, server: AppServerDouble, clock: Clock, lives: int
) -> None:
    """The app server must take the same PATCH twice: nobody can know whether the first one
    arrived."""
    end_jobs(repository, 1, clock)
    dying = make_courier(UnreliableStore(repository.store, lives), server.url, clock)
    try:
        dying.deliver()
    except Killed:
        clock.pass_seconds(1)
        deliver_for(make_courier(repository.store, server.url, clock), clock, 3)
    assert states(repository, ["job-00"]) == {"delivered"}
    assert 1 <= len(server.told) <= 2
    assert len({told.body for told in server.told}) == 1
    assert repository.store.list(keys.OUTBOX) == []


def test_a_full_disk_does_not_make_us_tell_the_same_again_and_again(
    repository: JobRepository,
    server: AppServerDouble,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from seg_pipeline.errors import StoreFull

    def full(*_: Any) -> None:
        raise StoreFull("no space left.")

    end_jobs(repository, 1, clock)
    relay = make_courier(repository.store, server.url, clock)
    with monkeypatch.context() as patched:
        patched.setattr(repository.store, "put", full)
        deliver_for(relay, clock, 300)
    assert len(server.told) < 20
    assert "no space left" in caplog.text
    deliver_for(relay, clock, 60)
    assert states(repository, ["job-00"]) == {"delivered"}


def test_every_line_of_the_log_names_the_job_and_none_a_secret(
    repository: JobRepository, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        app_server(say(401, b"bad key key-1")) as server,
        caplog.at_level(logging.INFO, "seg_pipeline"),
    ):
        end_jobs(repository, 1, clock)
        make_courier(repository.store, server.url, clock, app_server_api_key="key-1").deliver()
    lines = [
        each.getMessage()
        for each in caplog.records
        if each.name == "seg_pipeline.adapters.outbox_relay"
    ]
    assert all("job-00" in line for line in lines)
    assert "key-1" not in caplog.text


def test_the_one_that_found_the_server_again_is_not_told_twice(
    repository: JobRepository, clock: Clock
) -> None:
    with app_server(hang_up, hang_up, hang_up, say()) as server:
        (uuid,) = end_jobs(repository, 1, clock)
        deliver_for(make_courier(repository.store, server.url, clock), clock, 200, 10)
    assert server.uuids().count(uuid) == 4
    assert states(repository, [uuid]) == {"delivered"}


def test_an_outage_is_noted_from_its_first_failure_until_the_next_answer(
    repository: JobRepository, clock: Clock
) -> None:
    with app_server(hang_up, hang_up, hang_up, say()) as server:
        end_jobs(repository, 1, clock)
        began, relay = clock(), make_courier(repository.store, server.url, clock)
        seen = []
        for _ in range(20):
            relay.deliver()
            seen.append(read_app_server_state(repository.store).down_since)
            clock.pass_seconds(10)
    assert set(seen) == {None, began}
    assert (seen[0], seen[-1]) == (None, None)


def test_an_outage_goes_on_when_the_process_is_another(
    repository: JobRepository, clock: Clock
) -> None:
    """Until there is an answer; one failure of its own says nothing yet."""
    note_app_server_state(repository.store, AppServerState(clock(), "it hung up"))
    began = clock()
    with app_server(hang_up, say()) as server:
        end_jobs(repository, 1, clock)
        relay = make_courier(repository.store, server.url, clock)
        relay.deliver()
        assert read_app_server_state(repository.store).down_since == began
        deliver_for(relay, clock, 100, 10)
    assert read_app_server_state(repository.store) == AppServerState()


def test_what_became_of_callbacks_is_counted(repository: JobRepository, clock: Clock) -> None:
    def counts() -> list[float]:
        outcomes = ("delivered", "retried", "parked")
        return [
            current_samples()["seg_callbacks_total", (("outcome", outcome),)]
            for outcome in outcomes
        ]

    before = counts()
    with app_server(hang_up, say(), say(422)) as server:
        end_jobs(repository, 2, clock)
        deliver_for(make_courier(repository.store, server.url, clock), clock, 100, 10)
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [1, 1, 1]


def test_the_end_of_a_batch_is_told_once_and_signed(
    repository: JobRepository, server: AppServerDouble, tmp_path: Path
) -> None:
    settings = make_settings(
        tmp_path,
        app_server_url=server.url,
        callback_secret="s3cret",
        base_url="https://seg.example",
    )
    accept_batch(repository, callback=True)
    advance(repository)
    finish_waiting(repository, failing=("batch-summer-000001",))
    advance(repository)
    relay = OutboxRelay(repository.store, settings)
    (ended,) = relay.deliver().ended
    assert relay.deliver().ended == []
    (told,) = server.told
    assert told.path == "/api/v1/re-imagine/auto-mask/batches/summer"
    assert is_genuine("s3cret", told.headers, told.body)
    document = told.document
    counts = {name: document[name] for name in ("total", "completed", "failed", "cancelled")}
    assert counts == {"total": 3, "completed": 2, "failed": 1, "cancelled": 0}
    assert document["export_url"] == "https://seg.example/batches/summer/export?format=coco"
    assert (ended.uuid, ended.state) == ("batch.summer", "delivered")
