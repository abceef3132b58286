"""How the service stands, as the store says it."""

from datetime import timedelta

import pytest

from seg_pipeline.jobs.outbox import Outbox
from seg_pipeline.jobs.records import StoredResult
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.monitoring.service_state import (
    LISTED,
    AppServerState,
    PruneState,
    note_app_server_state,
    note_first_start,
    note_prune,
    read_service_state,
)
from seg_pipeline.store import Store, keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline_tests.builders import NOON, bring_picture, make_job, make_result
from seg_pipeline_tests.unreliable import UnreliableStore


def test_an_empty_service_has_nothing_to_say(store: Store) -> None:
    state = read_service_state(store, 15, NOON)
    assert (state.waiting.count, state.in_flight.count, state.workers, state.parked) == (0, 0, 0, 0)
    assert state.oldest_job_seconds == 0
    assert state.app_server_down_seconds == 0
    assert state.prune is None


def test_jobs_are_counted_by_state_and_age(store: Store) -> None:
    repository = JobRepository(store)
    for name in ("a", "b", "c"):
        repository.acceptance.accept(make_job(name, image_url="https://example.com/x.png"))
    for name in ("a", "b"):
        bring_picture(repository, name)
    repository.claims.claim(["a"], "run-1")
    now = store.list(keys.INBOX)[0].last_modified + timedelta(minutes=5)
    state = read_service_state(store, 15, now)
    assert (state.waiting.count, state.in_flight.count) == (2, 1)
    assert 299 <= state.oldest_job_seconds <= 330


def test_parked_things_are_counted_by_kind(store: Store) -> None:
    store.put(keys.parked("message-1"), b"{}")
    store.put(keys.parked("callback-job-1"), b"{}")
    store.put(keys.parked("callback-job-2"), b"{}")
    state = read_service_state(store, 15, NOON)
    assert (state.parked_messages, state.parked_callbacks) == (1, 2)


def test_callbacks_are_due_from_their_time_on(store: Store) -> None:
    repository = JobRepository(store)
    repository.acceptance.accept(
        make_job("a", image_url="https://example.com/x.png", callback=True)
    )
    Outbox(store).record(StoredResult.of(make_result("a")), NOON)
    assert read_service_state(store, 15, NOON - timedelta(seconds=1)).callbacks_due.count == 0
    due = read_service_state(store, 15, NOON + timedelta(seconds=90)).callbacks_due
    assert due.count == 1
    assert due.oldest_seconds == pytest.approx(90)


def test_an_outage_is_known_to_every_process(store: Store) -> None:
    note_app_server_state(store, AppServerState(NOON, "it does not answer"))
    state = read_service_state(store, 15, NOON + timedelta(minutes=2))
    assert state.app_server_down_seconds == 120
    assert state.app_server.problem == "it does not answer"
    note_app_server_state(store, AppServerState())
    assert read_service_state(store, 15, NOON).app_server_down_seconds == 0


def test_the_last_prune_counts_and_the_first_start_does_not_replace_it(store: Store) -> None:
    note_first_start(store, NOON)
    note_prune(store, PruneState(NOON + timedelta(hours=1), 2))
    note_first_start(store, NOON + timedelta(hours=5))
    assert read_service_state(store, 15, NOON).prune == PruneState(NOON + timedelta(hours=1), 2)


@pytest.mark.parametrize("key", [keys.APP_SERVER_STATE, keys.PRUNE_STATE])
def test_a_note_that_a_power_cut_left_empty_is_none(store: Store, key: str) -> None:
    store.put(key, b"")
    state = read_service_state(store, 15, NOON)
    assert state.prune is None
    assert state.app_server == AppServerState()


def test_what_is_done_is_not_looked_at() -> None:
    """However many jobs are done: no listing of `done/`, `expiry/` or `assets/`, and none without a
    limit."""
    listed: list[tuple[str, int | None]] = []

    class Watched(UnreliableStore):
        def list(self, prefix: str, after: str | None = None, limit: int | None = None) -> object:
            listed.append((prefix, limit))
            return self._store.list(prefix, after, limit)

    read_service_state(Watched(ObjectStore.in_memory()), 15, NOON)  # type: ignore[arg-type]
    waiting = {keys.FETCHING, keys.INBOX, keys.INFLIGHT}
    assert {prefix for prefix, _ in listed} == {*waiting, keys.OUTBOX, keys.PARKED, keys.WORKERS}
    assert {limit for prefix, limit in listed if prefix != keys.WORKERS} == {LISTED}
