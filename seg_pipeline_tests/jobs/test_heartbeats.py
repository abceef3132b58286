"""Workers' signs of life, on every kind of store."""

import json
from datetime import UTC, datetime, timedelta, timezone

from seg_pipeline.jobs.heartbeats import (
    WorkerHeartbeat,
    all_workers,
    live_workers,
    remove_heartbeat,
    write_heartbeat,
)
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import read, to_document
from seg_pipeline_tests.builders import NOON, make_heartbeat


def test_a_beat_is_read_back_as_it_was_written(store: Store) -> None:
    heartbeat = make_heartbeat(
        run_id="run-1", uuids=("job-1", "job-2"), models=("demo-yolo",), idle_since=NOON
    )
    write_heartbeat(store, heartbeat)
    assert live_workers(store, NOON, 15) == [heartbeat]


def test_an_idle_worker_without_a_run_is_live_too(store: Store) -> None:
    write_heartbeat(store, make_heartbeat())
    assert live_workers(store, NOON, 15) == [make_heartbeat()]


def test_the_last_beat_of_a_worker_counts(store: Store) -> None:
    write_heartbeat(store, make_heartbeat(uuids=("job-1",)))
    write_heartbeat(store, make_heartbeat(uuids=("job-2",)))
    assert [heartbeat.uuids for heartbeat in live_workers(store, NOON, 15)] == [("job-2",)]


def test_a_worker_is_live_until_it_was_silent_for_too_long(store: Store) -> None:
    write_heartbeat(store, make_heartbeat("at-the-limit", NOON - timedelta(seconds=15)))
    write_heartbeat(store, make_heartbeat("dead", NOON - timedelta(seconds=15.1)))
    write_heartbeat(store, make_heartbeat("clock-runs-ahead", NOON + timedelta(seconds=30)))
    assert [heartbeat.name for heartbeat in live_workers(store, NOON, 15)] == [
        "at-the-limit",
        "clock-runs-ahead",
    ]
    assert [heartbeat.name for heartbeat in all_workers(store)] == [
        "at-the-limit",
        "clock-runs-ahead",
        "dead",
    ]


def test_now_is_the_default(store: Store) -> None:
    write_heartbeat(store, make_heartbeat("now", datetime.now(UTC)))
    write_heartbeat(store, make_heartbeat("then", NOON))
    assert [heartbeat.name for heartbeat in live_workers(store)] == ["now"]


def test_a_worker_that_says_goodbye_is_gone(store: Store) -> None:
    write_heartbeat(store, make_heartbeat())
    remove_heartbeat(store, "worker-1")
    remove_heartbeat(store, "worker-1")
    assert all_workers(store) == []


def test_what_cannot_be_read_is_no_worker(store: Store) -> None:
    """A power cut may leave an empty file; nobody may stumble over it."""
    for number, data in enumerate(
        [b"", b"{", b"[]", b"null", b'"x"', b"{}", b'{"beat_at": 7}', b"\xff"]
    ):
        store.put(keys.worker(f"broken-{number}"), data)
    write_heartbeat(store, make_heartbeat())
    assert all_workers(store) == [make_heartbeat()]


def test_a_newer_versions_fields_are_ignored() -> None:
    document = {**to_document(make_heartbeat()), "temperature": 70}
    assert read(WorkerHeartbeat, json.dumps(document).encode()) == make_heartbeat()


def test_beats_of_other_time_zones_are_compared_rightly() -> None:
    here = NOON.astimezone(timezone(timedelta(hours=5)))
    assert make_heartbeat(beat_at=here).is_live(NOON + timedelta(seconds=10), 15)
    assert not make_heartbeat(beat_at=here).is_live(NOON + timedelta(seconds=20), 15)
