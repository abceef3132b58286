"""When the app server is told again, and when that is given up."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from seg_pipeline.jobs.deliveries import Delivery, DeliveryState, Policy, Reply
from seg_pipeline.store.serialization import read, to_document
from seg_pipeline_tests.builders import NOON

POLICY = Policy(give_up_seconds=86_400, parked_ttl_seconds=7 * 86_400)
DOWN = Reply(0.2, problem="ConnectError: refused")


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def make_delivery(created_at: datetime = NOON) -> Delivery:
    return Delivery.begin("job-1", "ab" * 32, created_at)


def after(
    reply: Reply, now: datetime = NOON, delivery: Delivery | None = None, jitter: float = 1
) -> Delivery:
    return (delivery or make_delivery()).after(reply, now, POLICY, None, lambda: jitter)


def test_a_delivery_is_due_at_once() -> None:
    delivery = make_delivery()
    assert (delivery.state, delivery.due_at, delivery.attempts) == ("pending", NOON, ())


def test_what_arrived_is_delivered_and_keeps_nothing() -> None:
    delivered = after(Reply(0.12345, 204))
    assert (delivered.state, delivered.due_at, delivered.attempt_count) == ("delivered", None, 1)
    (attempt,) = delivered.attempts
    assert (attempt.at, attempt.seconds, attempt.status, attempt.problem) == (
        NOON,
        0.123,
        204,
        None,
    )


def test_what_arrived_late_keeps_the_files_for_a_while() -> None:
    delivered = make_delivery().after(Reply(0.1, 200), NOON, POLICY, NOON + seconds(60))
    assert (delivered.state, delivered.due_at) == ("delivered", NOON + seconds(60))


def test_pauses_grow_from_seconds_to_ten_minutes() -> None:
    delivery, now, pauses = make_delivery(), NOON, []
    for _ in range(12):
        delivery = after(DOWN, now, delivery)
        assert delivery.due_at is not None
        pauses.append((delivery.due_at - now).total_seconds())
        now = delivery.due_at
    assert pauses == [2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600, 600]


def test_two_that_failed_together_do_not_come_back_together() -> None:
    due = [
        after(DOWN, delivery=replace(make_delivery(), attempt_count=5), jitter=jitter).due_at
        for jitter in (0, 0.5)
    ]
    assert due == [NOON + seconds(1), NOON + seconds(32.5)]


@pytest.mark.parametrize(("asked", "pause"), [(1, 2), (45, 45), (10**9, 3600)])
def test_retry_after_is_honoured_within_reason(asked: float, pause: float) -> None:
    assert after(Reply(0.1, 429, "busy", asked)).due_at == NOON + seconds(pause)


def test_a_refusal_for_good_parks_it_with_what_was_said_and_keeps_the_files() -> None:
    parked = after(Reply(0.1, 404, "the app server answered 404: unknown uuid"))
    assert (parked.state, parked.reason) == ("parked", "the app server answered 404: unknown uuid")
    assert parked.due_at == NOON + timedelta(days=7)


def test_the_last_attempt_is_made_when_the_time_is_over_and_not_before() -> None:
    nearly = NOON + seconds(86_400 - 60)
    late = replace(make_delivery(), attempt_count=20)
    delivery = after(DOWN, nearly, late)
    assert (delivery.state, delivery.due_at) == ("pending", NOON + seconds(86_400))
    parked = after(DOWN, NOON + seconds(86_400), delivery)
    assert (parked.state, parked.reason) == (
        "parked",
        "given up after 86400 s: ConnectError: refused",
    )


def test_one_that_was_never_tried_in_its_time_gets_an_attempt() -> None:
    """We may have been down for a day ourselves."""
    assert after(Reply(0.1, 200), NOON + timedelta(days=3)).state is DeliveryState.DELIVERED


def test_of_many_attempts_the_first_and_the_last_are_kept() -> None:
    delivery = make_delivery()
    for number in range(1000):
        delivery = after(Reply(number, 500, "no"), NOON, delivery)
    assert delivery.attempt_count == 1000
    assert [attempt.seconds for attempt in delivery.attempts] == [0, 1, 2, *range(993, 1000)]


def test_one_that_failed_can_take_its_old_place() -> None:
    failed = after(DOWN, NOON + seconds(600))
    assert failed.hurried().due_at == NOON
    assert failed.begun_since(NOON + seconds(600))
    assert not failed.begun_since(NOON + seconds(601))
    assert not make_delivery().begun_since(NOON - seconds(1))


@pytest.mark.parametrize("reply", [DOWN, Reply(0.1, 200), Reply(0.1, 404, "no")])
def test_a_delivery_is_read_back_as_it_was(reply: Reply) -> None:
    delivery = after(reply)
    document = {**to_document(delivery), "of_a_newer_version": 1}
    assert read(Delivery, json.dumps(document).encode()) == delivery


def test_times_are_utc_wherever_they_were_written() -> None:
    document = {**to_document(make_delivery()), "due_at": "2026-01-02T14:00:00+02:00"}
    delivery = read(Delivery, json.dumps(document).encode())
    assert delivery.due_at == NOON
    assert delivery.due_at.tzinfo is UTC
