"""What is parked, and what becomes of it."""

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from seg_pipeline.errors import NotReplayable, ParkedNotFound
from seg_pipeline.jobs.deliveries import DeliveryState, Policy
from seg_pipeline.jobs.parked import Parked, ParkedItems, ParkedKind
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline_tests.builders import end_queue_job
from seg_pipeline_tests.unreliable import Killed, UnreliableStore

MESSAGE = {
    "message_id": "m-1",
    "code": "invalid_request",
    "reason": "it is no JSON.",
    "body": "{",
    "is_cut": False,
}


def park_message(store: Store, name: str = "m-1", **fields: object) -> None:
    """A message that could not become a job."""
    parked = {**MESSAGE, "parked_at": datetime.now(UTC).isoformat(), **fields}
    store.put(keys.parked(name), json.dumps(parked).encode())


def park_callback(store: Store, uuid: str = "job-1") -> None:
    """A callback that was given up."""
    repository = JobRepository(store)
    end_queue_job(repository, uuid, ended_at=datetime.now(UTC) - timedelta(minutes=1))
    delivery = repository.outbox.delivery(uuid)
    assert delivery
    parked = delivery.parked("it was refused", datetime.now(UTC), Policy(60, 3600))
    repository.outbox.note(parked, delivery)


@pytest.fixture
def memory() -> Store:
    """An empty store."""
    return ObjectStore.in_memory()


def test_all_kinds_are_listed_by_name_a_page_at_a_time(store: Store) -> None:
    park_message(store)
    park_callback(store)
    store.put(
        keys.parked("old-marker"),
        json.dumps({"uuid": "old-marker", "reason": "no request"}).encode(),
    )
    items = ParkedItems(store)
    first = items.page(None, 2)
    second = items.page(first.next, 2)
    assert [(each.name, each.kind) for each in (*first.parked, *second.parked)] == [
        ("callback-job-1", ParkedKind.CALLBACK),
        ("m-1", ParkedKind.MESSAGE),
        ("old-marker", ParkedKind.MARKER),
    ]
    assert (first.next, second.next) == ("m-1", None)
    assert first.parked[0].uuid == "job-1"
    assert first.parked[1].reason == "it is no JSON."


def test_a_note_that_a_power_cut_left_empty_is_listed_and_can_be_dropped(store: Store) -> None:
    store.put(keys.parked("half"), b"")
    items = ParkedItems(store)
    (half,) = items.page(None, 10).parked
    assert "cannot be read" in half.reason
    items.drop(half)
    assert items.page(None, 10).parked == ()


@pytest.mark.parametrize("name", ["unknown", "../x", "a/b", "", "x" * 300, ".hidden"])
def test_what_is_not_parked_is_not_found(memory: Store, name: str) -> None:
    park_message(memory, "a")
    with pytest.raises(ParkedNotFound):
        ParkedItems(memory).get(name)


@pytest.mark.parametrize(
    "fields",
    [{"is_cut": True}, {"body": "x" * 8192, "is_cut": None}, {"body": None, "message_id": "m"}],
)
def test_a_message_that_is_not_here_whole_is_not_replayed(
    memory: Store, fields: dict[str, object]
) -> None:
    """Earlier releases cut bodies without saying so."""
    park_message(memory, "m-1", **fields)
    note = json.loads(memory.get(keys.parked("m-1")))
    memory.put(
        keys.parked("m-1"), json.dumps({k: v for k, v in note.items() if v is not None}).encode()
    )
    items = ParkedItems(memory)
    with pytest.raises(NotReplayable):
        items.message_of(items.get("m-1"))


def die_and_do_it_again(
    memory: Store, lives: int, act: Callable[[ParkedItems, Parked], None]
) -> None:
    """Does it to a parked callback, by a process that dies on the way and then by another one."""
    with suppress(Killed):
        dying = ParkedItems(UnreliableStore(memory, lives))
        act(dying, dying.get("callback-job-1"))
    items = ParkedItems(memory)
    with suppress(ParkedNotFound):
        act(items, items.get("callback-job-1"))
    assert items.page(None, 10).parked == ()


@pytest.mark.parametrize("lives", range(7))
def test_a_replay_of_a_callback_may_die_anywhere(memory: Store, lives: int) -> None:
    park_callback(memory)
    die_and_do_it_again(memory, lives, ParkedItems.replay_callback)
    delivery = JobRepository(memory).outbox.delivery("job-1")
    assert delivery
    assert delivery.state is DeliveryState.PENDING
    assert [each.uuid for each in JobRepository(memory).outbox.waiting(datetime.now(UTC), 10)] == [
        "job-1"
    ]


@pytest.mark.parametrize("lives", range(5))
def test_a_drop_of_a_callback_may_die_anywhere_and_lets_the_files_go(
    memory: Store, lives: int
) -> None:
    park_callback(memory)
    assert JobRepository(memory).outbox.uuids() == {"job-1"}
    die_and_do_it_again(memory, lives, ParkedItems.drop)
    assert JobRepository(memory).outbox.uuids() == set()


def test_a_callback_that_is_parked_again_meanwhile_stays_on_the_list(memory: Store) -> None:
    park_callback(memory)
    items = ParkedItems(memory)
    parked = items.get("callback-job-1")

    class Quick(UnreliableStore):
        """The relay tries, and parks again, as soon as the delivery is recorded anew."""

        tried = False

        def delete(self, key: str) -> None:
            memory.delete(key)
            delivery = JobRepository(memory).outbox.delivery("job-1")
            if (
                key == keys.parked("callback-job-1")
                and delivery
                and delivery.is_pending
                and not self.tried
            ):
                self.tried = True
                JobRepository(memory).outbox.note(
                    delivery.parked("again", datetime.now(UTC), Policy(60, 60)), delivery
                )

    ParkedItems(Quick(memory)).replay_callback(parked)
    assert [each.reason for each in items.page(None, 10).parked] == ["again"]
