"""How much is taken on at once, and what is said of the rest."""

import shutil
from pathlib import Path

import pytest

from api.admission import SLOW_TURNS, Backlog, FreeSpace, Slots, client_key
from api.error_responses import Busy, TooManyRequests
from seg_pipeline.errors import StoreFull
from seg_pipeline.store import Store, keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline_tests.api.serving import Serve
from seg_pipeline_tests.builders import picture_bytes

PICTURE = picture_bytes()
MIB = 2**20


def test_a_client_has_its_own_limit_and_all_have_one() -> None:
    slots = Slots("uploads", 3, 2)
    with slots.hold("a"), slots.hold("a"):
        with pytest.raises(TooManyRequests, match="you have 2 uploads"), slots.hold("a"):
            pass
        with slots.hold("b"), pytest.raises(Busy, match="has 3 uploads"), slots.hold("c"):
            pass
        with slots.hold("b"):
            assert slots.taken == 3
    assert slots.taken == 0
    with slots.hold("a"), slots.hold("a"):
        pass


def test_a_body_that_brings_nothing_gives_way_and_one_that_does_not_stays() -> None:
    slots = Slots("uploads", 3, 2)
    with slots.hold("a") as slow, slots.hold("a") as quick, slots.hold("b") as other:
        for _ in range(SLOW_TURNS):
            slow.turn(0)
            quick.turn(0)
            quick.turn(10_000)
        with slots.hold("a"):
            assert (slow.was_taken, quick.was_taken, other.was_taken) == (True, False, False)
            with pytest.raises(TooManyRequests), slots.hold("a"):
                pass
        assert slots.taken == 2
    assert slots.taken == 0


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_a_household_is_one_client(host: str, key: str) -> None:
    assert client_key(host) == key


def test_some_of_the_disk_stays_free(tmp_path: Path) -> None:
    FreeSpace([tmp_path, tmp_path / "not yet"], 0).check(1)
    with pytest.raises(StoreFull, match="do not fit"):
        FreeSpace([tmp_path], 0).check(2**60)


def test_of_a_small_disk_less_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume of 64 MB could take nothing at all otherwise."""
    usage = shutil.disk_usage(tmp_path)._replace(total=64 * MIB, free=2 * MIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    space = FreeSpace([tmp_path], 256 * MIB)
    space.check(MIB // 2)
    with pytest.raises(Busy, match=f"MIN_FREE_BYTES = {256 * MIB}"):
        space.check(MIB)
    with pytest.raises(StoreFull):
        space.check(3 * MIB)


def test_jobs_are_counted_now_and_then_and_guessed_between() -> None:
    store = ObjectStore.in_memory()
    store.put(keys.inbox("a"), b"")
    store.put(keys.inflight("b"), b"")
    backlog = Backlog(store, 4)
    backlog.check()
    backlog.add()
    backlog.check()
    backlog.add()
    with pytest.raises(Busy, match="4 jobs wait already, MAX_QUEUED_JOBS = 4"):
        backlog.check()


@pytest.mark.parametrize("what", ["queue", "disk"])
def test_who_cannot_be_taken_on_is_told_when_to_come_again_and_leaves_nothing(
    serve: Serve, api_store: Store, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    api_store.put(keys.inbox("other"), b"")
    client = serve(wait_seconds=0, max_queued_jobs=1 if what == "queue" else 100)
    if what == "disk":
        usage = shutil.disk_usage("/")._replace(free=MIB)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    asked = {"uuid": "mine", "image_url": "https://example.com/a.png"}
    for response in (
        client.post("/segment?uuid=mine", content=PICTURE),
        client.post("/jobs", json=asked),
    ):
        assert (response.status_code, response.json()["code"]) == (503, "busy")
        assert int(response.headers["retry-after"]) > 0
    assert api_store.list(keys.ASSETS) == []
    assert client.get("/livez").status_code == 200


def test_a_client_over_its_limit_is_told_so(serve: Serve) -> None:
    response = serve(max_uploads_per_client=0).post("/segment", content=PICTURE)
    assert (response.status_code, response.json()["code"]) == (429, "too_many_requests")
    assert int(response.headers["retry-after"]) > 0
