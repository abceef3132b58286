"""A store outlives the version that wrote it. `store_without_format.json` is one as commit b47f6bb
left it: jobs that wait, in flight and ended, deliveries of every state, a parked message, a
worker's last heartbeat."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from seg_pipeline.adapters.outbox_relay import OutboxRelay, RelayTiming
from seg_pipeline.domain import JobStatus
from seg_pipeline.errors import StoreTooNew
from seg_pipeline.jobs.heartbeats import all_workers
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline.store.format import FORMAT, check_format
from seg_pipeline_tests.app_servers import app_server
from seg_pipeline_tests.builders import waiting_uuids
from seg_pipeline_tests.conftest import make_settings

SOON_AFTER = datetime(2026, 11, 26, 15, 0, tzinfo=UTC)
STATUSES = {
    "waiting-upload": "queued",
    "waiting-fetch": "queued",
    "in-flight": "queued",
    "to-tell": "completed",
    "put-off": "completed",
    "delivered": "completed",
    "parked": "completed",
    "failed-to-tell": "failed",
}


def read_older_store() -> dict[str, bytes]:
    """The files that the older version left, by their keys."""
    files = json.loads((Path(__file__).parent / "store_without_format.json").read_text())
    return {
        key: content.encode() if isinstance(content, str) else base64.b64decode(content["base64"])
        for key, content in files.items()
    }


@pytest.fixture
def old_store(store: Store) -> Store:
    for key, content in read_older_store().items():
        store.put(key, content)
    return store


def test_an_older_store_is_marked_and_everything_in_it_is_found(old_store: Store) -> None:
    check_format(old_store)
    assert json.loads(old_store.get(keys.FORMAT))["format"] == FORMAT
    repository = JobRepository(old_store)
    assert {uuid: str(repository.status(uuid)) for uuid in STATUSES} == STATUSES
    assert {
        entry.uuid for entry in repository.listing.page(None, None, 100).jobs
    } == STATUSES.keys()
    assert {entry.uuid for entry in repository.listing.page(JobStatus.FAILED, None, 100).jobs} == {
        "failed-to-tell"
    }
    assert set(waiting_uuids(repository, 10)) == {"waiting-upload", "waiting-fetch"}
    fetched = repository.job("waiting-fetch")
    assert (fetched.model, fetched.rle, fetched.callback) == ("demo-sam2", True, True)
    assert dict(fetched.parameters) == {"points_per_side": 8}
    assert [worker.name for worker in all_workers(old_store)] == ["host-17"]


def test_an_older_stores_jobs_in_flight_go_on_with_their_attempt(old_store: Store) -> None:
    repository = JobRepository(old_store)
    (claim,) = repository.claims.inflight()
    assert (claim.uuid, claim.attempt, claim.run_key) == ("in-flight", 2, "in-flight:2@1767355300")
    assert repository.claims.reclaim(claim.next_attempt(SOON_AFTER))
    assert [each.attempt for each in repository.claims.inflight()] == [3]
    claimed = repository.claims.claim(["waiting-fetch", "waiting-upload"], "run")
    assert {each.uuid for each in claimed} == {"waiting-upload"}
    assert repository.fetches.uuids() == ["waiting-fetch"], (
        "its picture is fetched before a run is asked for"
    )


def test_an_older_stores_outbox_is_told_once_and_keeps_what_is_to_be_kept(
    old_store: Store, tmp_path: Path
) -> None:
    with app_server() as server:
        timing = RelayTiming(clock=lambda: SOON_AFTER)
        relay = OutboxRelay(old_store, make_settings(tmp_path, app_server_url=server.url), timing)
        relay.deliver()
        relay.deliver()
    assert sorted(server.uuids()) == ["failed-to-tell", "put-off", "to-tell"]
    assert {told.uuid: told.document["status"] for told in server.told}[
        "failed-to-tell"
    ] == "failed"
    outbox = JobRepository(old_store).outbox
    assert outbox.uuids() >= {"delivered", "parked"}
    assert outbox.replay("parked", SOON_AFTER).is_pending


def test_a_store_of_this_version_is_taken_as_it_is(store: Store) -> None:
    check_format(store)
    check_format(store)
    assert json.loads(store.get(keys.FORMAT))["format"] == FORMAT


@pytest.mark.parametrize("number", [FORMAT + 1, 99, "2b"])
def test_a_store_of_a_newer_version_is_refused_and_left_as_it_is(
    store: Store, number: object
) -> None:
    written = json.dumps({"format": number, "written_by": "9.1"}).encode()
    store.put(keys.FORMAT, written)
    with pytest.raises(
        StoreTooNew, match=r"written by version 9\.1; this version reads formats up to"
    ):
        check_format(store)
    assert store.get(keys.FORMAT) == written


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff"])
def test_a_mark_that_a_power_cut_took_is_made_again(store: Store, content: bytes) -> None:
    store.put(keys.FORMAT, content)
    check_format(store)
    assert json.loads(store.get(keys.FORMAT))["format"] == FORMAT
