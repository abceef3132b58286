"""Where jobs stand, for many listeners at the cost of one look at the store."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from api import events
from api.events import EventHub, JobState, Listener
from seg_pipeline.errors import JobNotFound, StoreUnavailable, TruncatedImage
from seg_pipeline.jobs.progress import Progress
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline.store.serialization import write
from seg_pipeline_tests.api.stand_ins import DRAWING, FailingStore, finish_job
from seg_pipeline_tests.builders import NOON, make_job
from seg_pipeline_tests.unreliable import UnreliableStore

PATIENCE = 20.0


def accept(store: Store, *uuids: str) -> None:
    for uuid in uuids:
        JobRepository(store).acceptance.accept(make_job(uuid), b"picture")


def note(store: Store, uuid: str, done: int, total: int = 100) -> None:
    progress = Progress("segments", NOON + timedelta(seconds=done), done, total)
    store.put(keys.progress(uuid), write(progress))


def with_hub(
    store: Store,
    use: Callable[[EventHub, asyncio.Event], Awaitable[None]],
    live: tuple[str, ...] = (),
) -> None:
    """Runs the test's coroutine with a hub over the store; workers have the live jobs."""

    async def run() -> None:
        closing = asyncio.Event()
        await use(EventHub(JobRepository(store), closing, 1000, lambda: live), closing)

    asyncio.run(run())


async def next_of(listener: Listener) -> JobState:
    state = await listener.next(PATIENCE)
    assert state is not None, "nothing came"
    return state


def test_a_listener_gets_the_present_state_and_then_each_change_to_the_end(store: Store) -> None:
    accept(store, "job-1")

    async def use(hub: EventHub, _: asyncio.Event) -> None:
        async with hub.listen("job-1") as listener:
            assert (await next_of(listener)).data == {"uuid": "job-1", "status": "queued"}
            note(store, "job-1", 1)
            state = await next_of(listener)
            assert (state.data["status"], state.data["stage"]) == ("processing", "segments")
            assert (state.data["done"], state.data["total"], state.is_last) == (1, 100, False)
            note(store, "job-1", 2)
            assert (await next_of(listener)).data["done"] == 2
            finish_job(store, "job-1", DRAWING)
            end = await next_of(listener)
            assert (end.data["status"], end.data["segments"], end.is_last) == ("completed", 1, True)

    with_hub(store, use)


def test_a_failure_a_cancel_and_a_deletion_are_ends() -> None:
    store = ObjectStore.in_memory()
    accept(store, "broken", "cancelled", "deleted")

    async def use(hub: EventHub, _: asyncio.Event) -> None:
        ends: tuple[tuple[str, Callable[[], object]], ...] = (
            ("broken", lambda: finish_job(store, "broken", error=TruncatedImage("It ends."))),
            ("cancelled", lambda: JobRepository(store).cancels.end("cancelled")),
            ("deleted", lambda: JobRepository(store).removal.delete("deleted")),
        )
        for uuid, end in ends:
            async with hub.listen(uuid) as listener:
                await next_of(listener)
                end()
                state = await next_of(listener)
                assert state.is_last
                code = state.data.get("error", {}).get("code")
                assert (state.data["status"], code) in {
                    ("failed", "truncated_image"),
                    ("failed", "cancelled"),
                    ("deleted", None),
                }

    with_hub(store, use)


def test_a_job_that_nobody_knows_is_not_listened_to() -> None:
    async def use(hub: EventHub, _: asyncio.Event) -> None:
        with pytest.raises(JobNotFound):
            async with hub.listen("unknown"):
                pass
        assert hub.jobs == 0

    with_hub(ObjectStore.in_memory(), use)


def test_two_hundred_listeners_to_a_job_cost_what_one_costs() -> None:
    store = UnreliableStore(ObjectStore.in_memory())
    accept(store, "job-1")
    note(store, "job-1", 1)

    async def use(hub: EventHub, _: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            ready = asyncio.Barrier(201)

            async def follow() -> None:
                async with hub.listen("job-1") as listener:
                    await next_of(listener)
                    await ready.wait()
                    assert (await next_of(listener)).data["done"] == 2

            for _number in range(200):
                group.create_task(follow())
            await ready.wait()
            store.calls.clear()
            note(store, "job-1", 2)
        counted = dict(store.calls)
        assert counted.get("get", 0) < 20
        assert counted.get("list", 0) < 20
        assert hub.jobs == 0

    with_hub(store, use)


def test_a_listener_that_takes_nothing_keeps_the_last_state_alone() -> None:
    store = ObjectStore.in_memory()
    accept(store, "job-1")

    async def use(hub: EventHub, _: asyncio.Event) -> None:
        async with hub.listen("job-1") as idle, hub.listen("job-1") as busy:
            for done in range(1, 6):
                note(store, "job-1", done)
                while (await next_of(busy)).data.get("done") != done:
                    pass
            assert (await next_of(idle)).data["done"] == 5
            assert await idle.next(0) is None

    with_hub(store, use)


def test_a_note_that_a_dead_worker_left_does_not_hide_the_end() -> None:
    store = ObjectStore.in_memory()
    accept(store, "job-1")
    note(store, "job-1", 1)

    async def use(hub: EventHub, _: asyncio.Event) -> None:
        async with hub.listen("job-1") as listener:
            await next_of(listener)
            finish_job(store, "job-1", DRAWING)
            note(store, "job-1", 2)
            assert (await next_of(listener)).is_last

    with_hub(store, use)


@pytest.mark.parametrize(
    "error", [StoreUnavailable("It is away."), RuntimeError("a fault of ours")]
)
def test_looks_that_fail_for_a_while_delay_events_and_lose_none(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.events.FAILED_PAUSE_SECONDS", 0.3)
    store = FailingStore(ObjectStore.in_memory())
    accept(store, "job-1")

    async def use(hub: EventHub, _: asyncio.Event) -> None:
        async with hub.listen("job-1") as listener:
            await next_of(listener)
            store.error = error
            assert await listener.next(0.2) is None
            store.error = None
            finish_job(store, "job-1", DRAWING)
            assert (await next_of(listener)).is_last

    with_hub(store, use)


def test_who_listens_when_the_service_ends_is_let_go() -> None:
    store = ObjectStore.in_memory()
    accept(store, "job-1")

    async def use(hub: EventHub, closing: asyncio.Event) -> None:
        async with hub.listen("job-1") as listener:
            await next_of(listener)
            closing.set()
            assert await listener.next(PATIENCE) is None
            assert listener.is_closed

    with_hub(store, use)


def test_an_event_has_an_id_a_name_and_a_line_of_json() -> None:
    state = JobState("a-1", {"uuid": "a", "text": "two\nlines"}, is_last=True)
    assert state.encoded() == (b'id: a-1\nevent: end\ndata: {"uuid":"a","text":"two\\nlines"}\n\n')


def test_workers_learn_that_somebody_listens_and_again_now_and_then(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MARK_SECONDS", 0.0)
    accept(store, "job-1")

    async def use(hub: EventHub, _: asyncio.Event) -> None:
        assert store.head(keys.LISTENERS_STATE) is None
        async with hub.listen("job-1"):
            first = store.get(keys.LISTENERS_STATE)
            while store.get(keys.LISTENERS_STATE) == first:
                await asyncio.sleep(0.01)

    with_hub(store, use)


def test_a_job_that_a_worker_has_is_said_to_be_processing_before_there_is_a_note() -> None:
    store = ObjectStore.in_memory()
    accept(store, "job-1")

    async def use(hub: EventHub, _: asyncio.Event) -> None:
        async with hub.listen("job-1") as listener:
            assert (await next_of(listener)).data == {"uuid": "job-1", "status": "processing"}
            assert await listener.next(0.5) is None, "it does not fall back"
            note(store, "job-1", 1)
            assert (await next_of(listener)).data["stage"] == "segments"

    with_hub(store, use, live=("job-1",))
