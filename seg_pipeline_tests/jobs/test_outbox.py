"""What the app server is still to be told: never lost, found in order, whoever dies when."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from seg_pipeline.errors import JobNotFound, NothingToTell
from seg_pipeline.jobs.deliveries import Delivery, Policy, Reply
from seg_pipeline.jobs.outbox import DueBatch, DueDelivery, Marker, Outbox
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline_tests.builders import (
    NOON,
    bring_picture,
    end_queue_job,
    make_job,
    make_queue_job,
    make_result,
    waiting_uuids,
)
from seg_pipeline_tests.jobs.batches_in_store import accept_batch, advance, finish_waiting
from seg_pipeline_tests.unreliable import Killed, UnreliableStore

POLICY = Policy(give_up_seconds=3600, parked_ttl_seconds=7 * 86_400)
FAR = NOON.replace(year=2100)
OK = Reply(0.1, 200)
DOWN = Reply(0.1, problem="ConnectError: refused")
GONE = Reply(0.1, 404, "the app server answered 404.")


def markers(repository: JobRepository) -> list[str]:
    return [info.key for info in repository.store.list(keys.OUTBOX)]


def parked(repository: JobRepository) -> list[str]:
    return [info.key for info in repository.store.list(keys.PARKED)]


def take_all(outbox: Outbox, now: datetime = FAR, limit: int = 100) -> list[DueDelivery]:
    """Everything that is to be sent now; what is put right on the way is looked at again."""
    due_deliveries = []
    for marker in outbox.waiting(now, limit):
        due_delivery = outbox.take(marker, now)
        if due_delivery:
            due_deliveries.append(due_delivery)
    return due_deliveries


def attempt(
    outbox: Outbox, due_delivery: DueDelivery, reply: Reply, now: datetime = FAR
) -> Delivery:
    after = due_delivery.delivery.after(reply, now, POLICY, due_delivery.keep_until(now), lambda: 1)
    outbox.note(after, due_delivery.delivery)
    return after


# Recording


@pytest.mark.parametrize("failed", [False, True])
def test_the_end_of_a_queues_job_is_recorded_with_it(
    repository: JobRepository, failed: bool
) -> None:
    result = end_queue_job(repository, failed=failed)
    (due_delivery,) = take_all(repository.outbox)
    assert (due_delivery.job, due_delivery.result) == (make_queue_job(), result)
    assert (due_delivery.delivery.state, due_delivery.delivery.attempt_count) == ("pending", 0)


def test_nobody_waits_to_be_told_of_an_upload(repository: JobRepository) -> None:
    repository.acceptance.accept(make_job(), b"picture")
    repository.results.finish(make_result("job-1", "completed", NOON))
    assert (markers(repository), repository.outbox.delivery("job-1")) == ([], None)


def test_settling_again_and_again_records_one_delivery(repository: JobRepository) -> None:
    end_queue_job(repository)
    before = markers(repository)
    assert repository.results.settle("job-1")
    assert repository.results.settle("job-1")
    assert markers(repository) == before


def test_settling_does_not_tell_again_what_was_told(repository: JobRepository) -> None:
    end_queue_job(repository)
    attempt(repository.outbox, take_all(repository.outbox)[0], OK, NOON)
    repository.results.settle("job-1")
    assert markers(repository) == []


def test_another_ending_is_told_too(repository: JobRepository) -> None:
    """A job that failed and went well when an operator ran it again."""
    end_queue_job(repository, failed=True)
    attempt(repository.outbox, take_all(repository.outbox)[0], OK, NOON)
    end_queue_job(repository)
    (due_delivery,) = take_all(repository.outbox)
    assert (due_delivery.result.status, due_delivery.delivery.attempt_count) == ("completed", 0)


def test_another_ending_takes_the_place_of_one_not_told_yet(repository: JobRepository) -> None:
    end_queue_job(repository, failed=True)
    end_queue_job(repository)
    (due_delivery,) = take_all(repository.outbox)
    assert due_delivery.result.status == "completed"
    assert len(markers(repository)) == 1


@pytest.mark.parametrize("lives", range(9))
def test_a_process_killed_at_any_write_of_the_end_loses_no_delivery(
    store: Store, lives: int
) -> None:
    """As it is mended in real life: the job is still in flight, so that the sweeper settles it or
    has it run again."""
    healthy = JobRepository(store)
    healthy.acceptance.accept(make_queue_job())
    bring_picture(healthy)
    healthy.claims.claim(["job-1"], "job-1:1")
    try:
        end_queue_job(JobRepository(UnreliableStore(store, lives)))
    except Killed:
        assert take_all(healthy.outbox) or [claim.uuid for claim in healthy.claims.inflight()] == [
            "job-1"
        ]
        if not healthy.results.settle("job-1"):
            end_queue_job(healthy)
    (due_delivery,) = take_all(healthy.outbox)
    assert due_delivery.result.status == "completed"
    assert (len(markers(healthy)), healthy.claims.inflight()) == (1, [])


# Order and time


def test_deliveries_come_in_the_order_in_which_they_were_recorded(
    repository: JobRepository,
) -> None:
    uuids = ["m", "a", "z", "b"]
    for uuid in uuids:
        end_queue_job(repository, uuid)
    assert [due_delivery.job.uuid for due_delivery in take_all(repository.outbox)] == uuids
    assert [marker.uuid for marker in repository.outbox.waiting(FAR, 2)] == ["m", "a"]


def test_what_failed_is_not_due_before_its_pause_is_over(repository: JobRepository) -> None:
    end_queue_job(repository)
    after = attempt(repository.outbox, take_all(repository.outbox)[0], DOWN)
    assert after.due_at is not None
    assert repository.outbox.waiting(after.due_at - timedelta(microseconds=1), 10) == []
    assert [marker.uuid for marker in repository.outbox.waiting(after.due_at, 10)] == ["job-1"]
    assert len(markers(repository)) == 1


def test_a_delivery_survives_the_process(repository: JobRepository) -> None:
    end_queue_job(repository)
    attempt(repository.outbox, take_all(repository.outbox)[0], DOWN, NOON)
    (due_delivery,) = take_all(Outbox(repository.store))
    assert (due_delivery.delivery.attempt_count, due_delivery.delivery.last_problem) == (
        1,
        "ConnectError: refused",
    )


def test_ten_thousand_waiting_are_not_read_to_find_the_first() -> None:
    store = UnreliableStore(ObjectStore.in_memory())
    for number in range(10_000):
        store.put(keys.outbox(number, f"job-{number}"), b"")
    outbox = Outbox(store)
    assert [marker.uuid for marker in outbox.waiting(FAR, 3)] == ["job-0", "job-1", "job-2"]
    assert store.calls["get"] == 0


# Ends


def test_what_is_delivered_in_time_leaves_no_marker(repository: JobRepository) -> None:
    end_queue_job(repository)
    assert attempt(repository.outbox, take_all(repository.outbox)[0], OK, NOON).state == "delivered"
    assert (markers(repository), repository.outbox.uuids()) == ([], set())


def test_what_is_delivered_late_keeps_its_files_for_its_time_to_live(
    repository: JobRepository,
) -> None:
    """Whoever is told after a day must find the masks behind the links."""
    end_queue_job(repository, ttl_seconds=60)
    late = NOON + timedelta(seconds=31)
    attempt(repository.outbox, take_all(repository.outbox)[0], OK, late)
    assert repository.outbox.uuids() == {"job-1"}
    assert take_all(repository.outbox, late + timedelta(seconds=59)) == []
    assert repository.outbox.uuids() == {"job-1"}
    assert take_all(repository.outbox, late + timedelta(seconds=60)) == []
    assert repository.outbox.uuids() == set()


def test_what_is_refused_is_parked_where_an_operator_finds_it(repository: JobRepository) -> None:
    end_queue_job(repository)
    attempt(repository.outbox, take_all(repository.outbox)[0], GONE, NOON)
    assert parked(repository) == ["parked/callback-job-1"]
    note = json.loads(repository.store.get("parked/callback-job-1"))
    assert (note["uuid"], note["reason"]) == ("job-1", "the app server answered 404.")
    assert repository.outbox.uuids() == {"job-1"}
    assert take_all(repository.outbox, NOON + timedelta(days=7)) == []
    assert repository.outbox.uuids() == set()


@pytest.mark.parametrize("reply", [OK, DOWN, GONE])
def test_a_process_killed_at_any_write_of_a_record_sends_once_more_at_worst(
    store: Store, reply: Reply
) -> None:
    for lives in range(5):
        healthy, uuid = JobRepository(store), f"job-{lives}"
        end_queue_job(healthy, uuid)
        dying = Outbox(UnreliableStore(store, lives))
        try:
            attempt(dying, take_all(dying)[0], reply)
        except Killed:
            for due_delivery in take_all(healthy.outbox):
                attempt(healthy.outbox, due_delivery, reply)
        take_all(healthy.outbox)
        delivery = healthy.outbox.delivery(uuid)
        assert delivery is not None
        assert delivery.state == {OK: "delivered", DOWN: "parked", GONE: "parked"}[reply]
        assert [key for key in markers(healthy) if not key.endswith(uuid)] == []
        healthy.removal.delete(uuid)
        assert (markers(healthy), parked(healthy)) == ([], [])


# Replay


def test_a_parked_delivery_can_be_replayed(repository: JobRepository) -> None:
    end_queue_job(repository)
    attempt(repository.outbox, take_all(repository.outbox)[0], GONE, NOON)
    repository.outbox.replay("job-1", NOON)
    (due_delivery,) = take_all(repository.outbox)
    assert (
        due_delivery.delivery.state,
        due_delivery.delivery.reason,
        due_delivery.delivery.attempt_count,
    ) == (
        "pending",
        None,
        0,
    )
    assert (len(markers(repository)), parked(repository)) == (1, [])


@pytest.mark.parametrize("reply", [None, OK, DOWN])
def test_any_delivery_can_be_replayed(repository: JobRepository, reply: Reply | None) -> None:
    end_queue_job(repository)
    if reply:
        attempt(repository.outbox, take_all(repository.outbox)[0], reply, NOON)
    repository.outbox.replay("job-1", NOON)
    assert len(markers(repository)) == 1
    assert len(take_all(repository.outbox, NOON)) == 1


def test_what_cannot_be_replayed_says_why(repository: JobRepository) -> None:
    repository.acceptance.accept(make_queue_job("running"))
    repository.acceptance.accept(make_job("upload"), b"picture")
    with pytest.raises(JobNotFound):
        repository.outbox.replay("unknown")
    with pytest.raises(NothingToTell, match="not ended yet"):
        repository.outbox.replay("running")
    with pytest.raises(NothingToTell, match="did not come by the queue"):
        repository.outbox.replay("upload")


# What others do meanwhile


def test_a_rerun_that_ends_while_the_old_result_is_sent_is_told_next(
    repository: JobRepository,
) -> None:
    """The record of the old PATCH comes last and must not hide the new result."""
    end_queue_job(repository, failed=True)
    (sent,) = take_all(repository.outbox)
    end_queue_job(repository)
    attempt(repository.outbox, sent, OK, NOON)
    assert (
        take_all(repository.outbox) == []
    )  # finds that the record is about another result, and begins anew
    (due_delivery,) = take_all(repository.outbox)
    assert (due_delivery.result.status, due_delivery.delivery.state) == ("completed", "pending")


def test_a_job_deleted_while_it_is_sent_stays_deleted(repository: JobRepository) -> None:
    end_queue_job(repository)
    (sent,) = take_all(repository.outbox)
    repository.removal.delete("job-1")
    attempt(repository.outbox, sent, DOWN)
    assert (markers(repository), repository.store.list(keys.ASSETS)) == ([], [])


@pytest.mark.parametrize("reply", [None, DOWN, GONE])
def test_a_deleted_job_takes_its_delivery_along(
    repository: JobRepository, reply: Reply | None
) -> None:
    end_queue_job(repository)
    if reply:
        attempt(repository.outbox, take_all(repository.outbox)[0], reply, NOON)
    repository.removal.delete("job-1")
    assert (markers(repository), parked(repository)) == ([], [])


def test_a_marker_of_a_job_that_is_gone_goes(repository: JobRepository) -> None:
    """A deletion that died before its last write."""
    repository.store.put(keys.outbox(0, "gone"), b"")
    assert take_all(repository.outbox) == []
    assert markers(repository) == []


# After a power cut, files that were not synced may be gone or empty


def test_a_lost_record_is_made_again(repository: JobRepository) -> None:
    end_queue_job(repository)
    repository.store.put(keys.delivery("job-1"), b"")
    assert take_all(repository.outbox) == []
    assert [due_delivery.job.uuid for due_delivery in take_all(repository.outbox)] == ["job-1"]
    assert len(markers(repository)) == 1


def test_a_lost_result_is_made_again(repository: JobRepository) -> None:
    end_queue_job(repository)
    repository.store.put(keys.result("job-1"), b"")
    assert take_all(repository.outbox) == []
    assert (waiting_uuids(repository, 10), markers(repository)) == (["job-1"], [])


@pytest.mark.parametrize("name", ["nonsense", "12-", "-job", "x-job"])
def test_a_strangers_marker_is_passed_over(repository: JobRepository, name: str) -> None:
    if keys.is_key(f"outbox/{name}"):
        repository.store.put(f"outbox/{name}", b"")
    end_queue_job(repository)
    assert [due_delivery.job.uuid for due_delivery in take_all(repository.outbox)] == ["job-1"]


@pytest.mark.parametrize(
    "document", [{}, {"state": "lost"}, {"uuid": "job-1", "state": "pending"}, []]
)
def test_an_unreadable_record_is_none(repository: JobRepository, document: Any) -> None:
    repository.store.put(keys.delivery("job-1"), json.dumps(document).encode())
    assert repository.outbox.delivery("job-1") is None


def test_a_job_that_is_deleted_while_its_delivery_is_taken_is_not_done_again(
    repository: JobRepository,
) -> None:
    """Its result is gone, which also a power cut may do; but then its marker would still be
    there."""
    end_queue_job(repository)
    (marker,) = repository.outbox.waiting(FAR, 10)
    repository.store.delete(marker.key)
    repository.store.delete(keys.result("job-1"))
    assert repository.outbox.take(marker) is None
    assert waiting_uuids(repository, 10) == []


def ended_batch(repository: JobRepository) -> Marker:
    """The marker of a batch that has ended."""
    accept_batch(repository, callback=True)
    advance(repository)
    finish_waiting(repository)
    advance(repository)
    (marker,) = repository.outbox.waiting(NOON, 10)
    return marker


def test_the_end_of_a_batch_is_due_with_the_batch(repository: JobRepository) -> None:
    marker = ended_batch(repository)
    due = repository.outbox.take_batch(marker, NOON)
    assert isinstance(due, DueBatch)
    assert (marker.uuid, due.batch.id, due.progress.states) == ("batch.summer", "summer", "ccc")


def test_the_end_of_a_batch_that_is_told_of_is_due_no_more(repository: JobRepository) -> None:
    marker = ended_batch(repository)
    due = repository.outbox.take_batch(marker, NOON)
    assert due is not None
    told = due.delivery.after(Reply(0.1, 200), NOON, Policy(60, 60), None)
    repository.outbox.note(told, due.delivery)
    assert repository.outbox.waiting(NOON, 10) == []
    repository.outbox.record_batch(due.batch, due.delivery.result_sha256, NOON)
    assert repository.outbox.waiting(NOON, 10) == []


def test_a_batch_that_is_gone_is_told_of_no_more(repository: JobRepository) -> None:
    marker = ended_batch(repository)
    repository.store.delete(keys.batch_request("summer"))
    assert repository.outbox.take_batch(marker, NOON) is None
    assert repository.outbox.waiting(NOON, 10) == []


def test_the_end_of_a_batch_can_be_told_again(repository: JobRepository) -> None:
    marker = ended_batch(repository)
    due = repository.outbox.take_batch(marker, NOON)
    assert due is not None
    repository.outbox.note(due.delivery.parked("refused", NOON, Policy(60, 60)), due.delivery)
    repository.outbox.replay("batch.summer", NOON)
    assert [each.uuid for each in repository.outbox.waiting(NOON, 10)] == ["batch.summer"]
    with pytest.raises(NothingToTell):
        repository.outbox.replay("batch.winter", NOON)


def test_the_app_server_and_the_webhook_of_a_batch_are_told_apart(
    repository: JobRepository,
) -> None:
    accept_batch(repository, callback=True, webhook="https://hooks.example.com/batches")
    advance(repository)
    finish_waiting(repository)
    advance(repository)
    (queue,) = repository.outbox.webhook_queues()
    (marker,) = repository.outbox.waiting(NOON, 10, queue)
    due = repository.outbox.take_batch(marker, NOON)
    assert due is not None
    assert (marker.uuid, due.batch.id) == ("batch-webhook.summer", "summer")
    repository.outbox.note(due.delivery.parked("refused", NOON, Policy(60, 60)), due.delivery)
    assert [each.uuid for each in repository.outbox.waiting(NOON, 10)] == ["batch.summer"]
    repository.outbox.replay("batch-webhook.summer", NOON)
    assert repository.outbox.waiting(NOON, 10, queue)[0].uuid == "batch-webhook.summer"
    repository.batches.delete(due.batch)
    for prefix in (keys.WEBHOOKS, keys.OUTBOX, keys.PARKED, keys.BATCHES):
        assert repository.store.list(prefix) == []


def test_a_batch_without_a_webhook_has_none_to_be_told_again(repository: JobRepository) -> None:
    ended_batch(repository)
    with pytest.raises(NothingToTell):
        repository.outbox.replay("batch-webhook.summer", NOON)
