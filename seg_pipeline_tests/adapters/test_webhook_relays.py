"""Webhooks of many hosts side by side: recorded with the job's end, tried again, never in the way
of another."""

from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from seg_client import is_genuine
from seg_pipeline.adapters import webhook_relays
from seg_pipeline.adapters.app_server import DeliveryLimits
from seg_pipeline.adapters.outbox_relay import OutboxRelay, RelayReport, RelayTiming
from seg_pipeline.adapters.webhook_relays import WebhookRelays
from seg_pipeline.jobs.deliveries import Delivery, DeliveryState
from seg_pipeline.jobs.parked import ParkedItems
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline_tests.adapters.test_outbox_relay import Clock
from seg_pipeline_tests.app_servers import AppServerDouble, app_server, hang, say
from seg_pipeline_tests.builders import end_queue_job, make_job, make_result
from seg_pipeline_tests.conftest import make_settings
from seg_pipeline_tests.jobs.batches_in_store import accept_batch, finish_waiting
from seg_pipeline_tests.unreliable import Killed, UnreliableStore


@pytest.fixture
def repository() -> JobRepository:
    return JobRepository(ObjectStore.in_memory())


def relays_over(
    store: Store, clock: Clock, limits: DeliveryLimits | None = None, **values: Any
) -> WebhookRelays:
    values = {"webhook_hosts": "127.0.0.0/8", **values}
    settings = make_settings(Path("nowhere"), **values)
    timing = RelayTiming(clock, lambda: 1.0, limits or DeliveryLimits(5))
    return WebhookRelays(store, settings, timing)


def end_job(repository: JobRepository, uuid: str, webhook: str, clock: Clock) -> None:
    job = make_job(uuid, webhook=webhook)
    repository.acceptance.accept(job, b"picture")
    repository.results.finish(make_result(uuid, expires_at=clock() + timedelta(hours=1)))
    clock.catch_up()


def deliver_all(relays: WebhookRelays) -> list[Delivery]:
    """One round, with what is slow."""
    first = relays.deliver()
    relays.wait()
    second = relays._take_reports()
    return [*first.ended, *second.ended]


def state_of(repository: JobRepository, uuid: str) -> DeliveryState:
    delivery = repository.outbox.delivery(uuid)
    assert delivery is not None
    return delivery.state


def test_the_end_of_a_job_is_told_to_its_webhook_and_leaves_no_marker(
    repository: JobRepository,
) -> None:
    clock = Clock()
    with app_server() as server:
        end_job(repository, "job-1", f"{server.url}/hook", clock)
        assert repository.outbox.uuids(keys.WEBHOOKS) == {"job-1"}
        assert repository.outbox.uuids() == set()
        (ended,) = deliver_all(relays_over(repository.store, clock))
    assert (ended.uuid, ended.state, server.told[0].document["uuid"]) == (
        *("job-1", "delivered", "job-1"),
    )
    assert repository.store.list(keys.WEBHOOKS) == []


def test_a_cancelled_job_is_told_too(repository: JobRepository) -> None:
    clock = Clock()
    with app_server() as server:
        repository.acceptance.accept(make_job(webhook=server.url), b"picture")
        repository.cancels.end("job-1")
        clock.catch_up()
        deliver_all(relays_over(repository.store, clock))
    assert server.told[0].document["error"]["code"] == "cancelled"


def test_a_server_that_never_answers_slows_no_other_host_and_not_the_app_server(
    repository: JobRepository,
) -> None:
    """It has a hundred deliveries, all of them due before those of the others."""
    clock = Clock()
    with ExitStack() as stack:
        silent = stack.enter_context(app_server(hang))
        quick = [stack.enter_context(app_server()) for _ in range(3)]
        theirs = stack.enter_context(app_server())
        for number in range(100):
            end_job(repository, f"silent-{number:03}", silent.url, clock)
        for number, server in enumerate(quick):
            end_job(repository, f"quick-{number}", server.url, clock)
        end_queue_job(repository, "queue-job", ended_at=clock())
        clock.catch_up()
        relays = relays_over(repository.store, clock, DeliveryLimits(total_seconds=60))
        ended = list(relays.deliver().ended)
        while len(ended) < 3:
            ended += relays.deliver().ended
        settings = make_settings(Path("nowhere"), app_server_url=theirs.url)
        OutboxRelay(repository.store, settings, RelayTiming(clock)).deliver()
        assert sorted(each.uuid for each in ended) == ["quick-0", "quick-1", "quick-2"]
        assert theirs.uuids() == ["queue-job"]
        assert silent.most_at_once <= 4
        silent.over.set()
        relays.wait()


def test_a_server_that_is_down_is_asked_one_by_one_and_gets_everything_in_the_end(
    repository: JobRepository,
) -> None:
    clock, uuids = Clock(), [f"job-{number}" for number in range(8)]
    with app_server(*[say(503)] * 5, say()) as server:
        for uuid in uuids:
            end_job(repository, uuid, server.url, clock)
        relays = relays_over(repository.store, clock)
        for _ in range(60):
            deliver_all(relays)
            clock.pass_seconds(5)
    assert {state_of(repository, uuid) for uuid in uuids} == {DeliveryState.DELIVERED}


def test_a_batch_is_told_and_signed_though_the_host_of_another_never_answers(
    repository: JobRepository,
) -> None:
    clock, settings = Clock(), {"webhook_secret": "sesame", "base_url": "https://seg.example"}
    with app_server(hang) as silent, app_server() as server:
        for batch_id, url in (("silent", silent.url), ("summer", f"{server.url}/batches")):
            accept_batch(repository, id=batch_id, webhook=url)
        repository.batch_work.advance(1000, clock())
        finish_waiting(repository, failing=("batch-summer-000001",))
        repository.batch_work.advance(1000, clock())
        clock.catch_up()
        limits = DeliveryLimits(total_seconds=60)
        relays = relays_over(repository.store, clock, limits, **settings)
        ended = list(relays.deliver().ended)
        while not ended:
            ended += relays.deliver().ended
        silent.over.set()
        relays.wait()
    (told,) = server.told
    document = told.document
    assert (told.path, document["uuid"], document["failed"]) == ("/batches", "summer", 1)
    assert document["batch_url"] == "https://seg.example/batches/summer"
    assert is_genuine("sesame", told.headers, told.body)
    assert [(each.uuid, each.state) for each in ended] == [("batch-webhook.summer", "delivered")]


def test_a_host_that_has_answered_since_the_last_round_is_told_in_the_next(
    repository: JobRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_relays, "ANSWERS_WITHIN_SECONDS", 0)
    clock = Clock()
    with app_server() as server:
        relays = relays_over(repository.store, clock)
        for uuid in ("job-1", "job-2"):
            end_job(repository, uuid, server.url, clock)
            clock.catch_up()
            relays.deliver()
            relays.wait()
            assert state_of(repository, uuid) is DeliveryState.DELIVERED


def test_a_refusal_is_parked_and_replayed_by_a_person(repository: JobRepository) -> None:
    clock = Clock()
    with app_server(say(410), say()) as server:
        end_job(repository, "job-1", server.url, clock)
        relays = relays_over(repository.store, clock)
        deliver_all(relays)
        (parked,) = ParkedItems(repository.store).page(None, 10).parked
        assert (parked.uuid, parked.kind) == ("job-1", "callback")
        assert parked.reason.startswith("the webhook answered 410")
        ParkedItems(repository.store).replay_callback(parked)
        clock.catch_up()
        deliver_all(relays)
    assert state_of(repository, "job-1") is DeliveryState.DELIVERED
    assert repository.store.list(keys.PARKED) == []


def test_a_private_address_is_parked_untold(repository: JobRepository) -> None:
    clock = Clock()
    with app_server() as server:
        end_job(repository, "job-1", server.url, clock)
        deliver_all(relays_over(repository.store, clock, webhook_hosts="hooks.example.com"))
    assert (state_of(repository, "job-1"), server.told) == (DeliveryState.PARKED, [])


def test_a_process_that_is_killed_at_any_write_loses_no_delivery() -> None:
    for lives in range(40):
        store, clock = ObjectStore.in_memory(), Clock()
        with app_server() as server:
            healthy = JobRepository(store)
            healthy.acceptance.accept(make_job(webhook=server.url), b"picture")
            dying = UnreliableStore(store, lives)
            with suppress(Killed):
                _finish(JobRepository(dying), clock)
                _tell_in_this_thread(dying, clock, server)
            if dying.lives:
                return
            _finish(healthy, clock)
            _tell_in_this_thread(store, clock, server)
        assert state_of(healthy, "job-1") is DeliveryState.DELIVERED, lives
        assert store.list(keys.WEBHOOKS) == [], lives
    raise AssertionError("it never came to its end")


def test_a_process_that_is_killed_while_it_tells_of_a_batch_loses_no_delivery() -> None:
    for lives in range(40):
        store, clock = ObjectStore.in_memory(), Clock()
        healthy, dying = JobRepository(store), UnreliableStore(store, lives)
        with app_server() as server:
            accept_batch(healthy, 1, webhook=server.url)
            healthy.batch_work.advance(10, clock())
            finish_waiting(healthy)
            healthy.batch_work.advance(10, clock())
            clock.catch_up()
            with suppress(Killed):
                _tell_in_this_thread(dying, clock, server)
            if dying.lives:
                return
            _tell_in_this_thread(store, clock, server)
        assert state_of(healthy, keys.batch_webhook("summer")) is DeliveryState.DELIVERED, lives
        assert store.list(keys.WEBHOOKS) == [], lives
    raise AssertionError("it never came to its end")


def _finish(repository: JobRepository, clock: Clock) -> None:
    expires_at = datetime.now(UTC) + timedelta(hours=1)
    repository.results.finish(make_result(expires_at=expires_at), keep_earlier=True)
    clock.catch_up()


def _tell_in_this_thread(store: Any, clock: Clock, server: AppServerDouble) -> RelayReport:
    """A thread would keep its death to itself."""
    relays = relays_over(store, clock)
    report = RelayReport()
    for queue in relays._outbox.webhook_queues():
        report = relays._make(queue).deliver()
    return report


def test_a_job_that_is_deleted_takes_its_delivery_along(repository: JobRepository) -> None:
    clock = Clock()
    end_job(repository, "job-1", "http://127.0.0.1:9/", clock)
    repository.removal.delete("job-1")
    assert repository.store.list(keys.WEBHOOKS) == []
    assert repository.store.list(keys.ASSETS) == []
