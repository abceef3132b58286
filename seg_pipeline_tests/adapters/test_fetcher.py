"""The fetcher at work on real servers: good ones, such as hang, and its own death in the middle."""

import asyncio
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from seg_pipeline.adapters import fetcher as module
from seg_pipeline.adapters.fetcher import Fetcher
from seg_pipeline.adapters.image_fetch import FetchLimits
from seg_pipeline.adapters.public_network import Resolver
from seg_pipeline.jobs.fetches import FetchRecord, FetchState
from seg_pipeline.jobs.heartbeats import (
    FetcherHeartbeat,
    all_fetchers,
    live_fetchers,
    write_fetcher_heartbeat,
)
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.settings import Settings
from seg_pipeline.store import Store, open_store
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline.store.serialization import write
from seg_pipeline_tests.adapters.test_image_fetch import PICTURE, Site, give, serving
from seg_pipeline_tests.builders import make_job, waiting_uuids
from seg_pipeline_tests.given_settings import GivenSettings

QUICK = FetchLimits(connect_seconds=5, read_seconds=0.3, total_seconds=20)
PATIENCE_SECONDS = 60.0


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


@pytest.fixture
def hanging() -> Iterator[str]:
    """The address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/hang.png"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "growing_pause", lambda *_: 0.01)


def make_settings(folder: Path, **values: Any) -> Settings:
    named = {
        "data_dir": folder / "data",
        "allow_private_urls": True,
        "inbox_poll_seconds": 0.01,
        **values,
    }
    return GivenSettings(**named)


def accept(repository: JobRepository, uuid: str, url: str, **asked: Any) -> None:
    repository.acceptance.accept(make_job(uuid, image_url=url, **asked))


@contextmanager
def fetching(
    store: Store, settings: Settings, limits: FetchLimits = QUICK, **asked: Any
) -> Iterator[Fetcher]:
    """A fetcher on a loop of its own while inside."""
    fetcher = Fetcher(store, settings, limits=limits, **asked)
    loop, stopping = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(
        target=lambda: loop.run_until_complete(fetcher.run(stopping)), daemon=True
    )
    thread.start()
    try:
        yield fetcher
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def record_of(repository: JobRepository, uuid: str) -> FetchRecord:
    record = repository.fetches.record_of(repository.job(uuid))
    assert record is not None
    return record


def test_a_picture_comes_into_the_store_and_the_job_into_the_inbox(
    store: Store, tmp_path: Path, site: Site
) -> None:
    repository = JobRepository(store)
    accept(repository, "job-1", site.url("/a.jpg?sig=topsecret"))
    with fetching(store, make_settings(tmp_path)):
        wait_for(lambda: waiting_uuids(repository, 10) == ["job-1"])
    record = record_of(repository, "job-1")
    assert repository.fetches.picture(repository.job("job-1"), record) == PICTURE
    assert (record.state, record.attempts, record.status, record.host) == (
        FetchState.FETCHED,
        1,
        200,
        "127.0.0.1",
    )
    assert record.address == site.url("/a.jpg")
    assert "topsecret" not in write(record).decode()
    assert repository.fetches.uuids() == []


def test_large_pictures_do_not_stay_in_memory(tmp_path: Path, site: Site) -> None:
    body = os.urandom(5_000_000)
    site.answers = [give(body)]
    repository = JobRepository(ObjectStore.in_memory())
    for index in range(8):
        accept(repository, f"job-{index}", site.url())
    with fetching(repository.store, make_settings(tmp_path)):
        wait_for(lambda: len(waiting_uuids(repository, 10)) == 8)
    assert (
        repository.fetches.picture(repository.job("job-7"), record_of(repository, "job-7")) == body
    )
    assert list((tmp_path / "data" / "fetching").iterdir()) == []


def test_a_server_that_fails_for_a_while_is_asked_again(tmp_path: Path, site: Site) -> None:
    site.answers = [give(b"", 500), give(b"", 503), give(PICTURE)]
    repository = JobRepository(ObjectStore.in_memory())
    accept(repository, "job-1", site.url())
    with fetching(repository.store, make_settings(tmp_path)):
        wait_for(lambda: waiting_uuids(repository, 10) == ["job-1"])
    assert (record_of(repository, "job-1").attempts, len(site.requests)) == (3, 3)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (give(b"", 404), ("fetch_rejected", 1)),
        (give(b"", 500), ("fetch_unavailable", 3)),
        (None, ("fetch_unavailable", 3)),
    ],
)
def test_a_picture_that_cannot_be_had_is_told_with_its_reason(
    tmp_path: Path, site: Site, hanging: str, answer: Any, expected: tuple[str, int]
) -> None:
    site.answers = [answer]
    repository = JobRepository(ObjectStore.in_memory())
    accept(repository, "job-1", site.url() if answer else hanging)
    with fetching(repository.store, make_settings(tmp_path, fetch_attempts=3)):
        wait_for(lambda: repository.claims.waiting(10).failed == ["job-1"])
    record = record_of(repository, "job-1")
    assert (record.code, record.attempts, record.error().permanent) == (*expected, True)


def test_an_outcome_that_is_not_stored_in_a_way_nobody_foresaw_is_fetched_again(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the job would wait for the fetcher's next start."""
    monkeypatch.setattr(module, "STORE_PAUSE_SECONDS", 0.01)
    repository = JobRepository(ObjectStore.in_memory())
    accept(repository, "job-1", site.url())
    with fetching(repository.store, make_settings(tmp_path)) as fetcher:
        fetched = fetcher.queue.fetched

        def fail_once(*arguments: Any) -> None:
            monkeypatch.setattr(fetcher.queue, "fetched", fetched)
            raise RuntimeError("a fault of ours")

        monkeypatch.setattr(fetcher.queue, "fetched", fail_once)
        wait_for(lambda: waiting_uuids(repository, 10) == ["job-1"])
    assert len(site.requests) == 2


def test_a_private_address_is_refused(tmp_path: Path, site: Site) -> None:
    repository = JobRepository(ObjectStore.in_memory())
    accept(repository, "job-1", site.url())
    with fetching(repository.store, make_settings(tmp_path, allow_private_urls=False)):
        wait_for(lambda: bool(waiting_uuids(repository, 10)))
    assert (record_of(repository, "job-1").code, site.requests) == ("url_refused", [])


def test_hosts_that_hang_hold_up_no_good_one(tmp_path: Path, site: Site, hanging: str) -> None:
    """More of them than may be fetched at once, each under a name of its own; none is given up
    meanwhile."""
    repository = JobRepository(ObjectStore.in_memory())
    port = hanging.split(":")[2]
    for index in range(60):
        accept(
            repository,
            f"hang-{index}",
            f"http://hang-{index}.example:{port}",
            accepted_at=datetime.now(UTC),
        )
    settings = make_settings(tmp_path, fetches_at_once=16, fetches_per_host=2)
    limits = FetchLimits(read_seconds=PATIENCE_SECONDS, total_seconds=2 * PATIENCE_SECONDS)
    with fetching(
        repository.store, settings, limits, resolver=Resolver(lambda *_: ["127.0.0.1"])
    ) as fetcher:
        wait_for(lambda: fetcher._slots.is_busy(f"127.0.0.1:{port.split('/')[0]}"))
        for index in range(20):
            accept(repository, f"good-{index}", site.url())
        wait_for(lambda: len(waiting_uuids(repository, 100)) == 20)
        assert not any(uuid.startswith("hang") for uuid in waiting_uuids(repository, 100))


def test_a_job_that_is_deleted_is_fetched_no_longer(tmp_path: Path, hanging: str) -> None:
    repository = JobRepository(ObjectStore.in_memory())
    accept(repository, "job-1", hanging)
    limits = FetchLimits(read_seconds=PATIENCE_SECONDS)
    with fetching(repository.store, make_settings(tmp_path), limits) as fetcher:
        wait_for(lambda: fetcher._slots.quick + fetcher._slots.slow == 1)
        repository.removal.delete("job-1")
        wait_for(lambda: fetcher._slots.quick + fetcher._slots.slow == 0)
    assert waiting_uuids(repository, 10) == []


def test_the_next_fetcher_goes_on_where_one_was_stopped(tmp_path: Path, hanging: str) -> None:
    repository = JobRepository(ObjectStore.in_memory())
    accept(repository, "job-1", hanging)
    settings = make_settings(tmp_path, fetch_attempts=20)

    def attempts() -> int:
        return (repository.fetches.record_of(repository.job("job-1")) or FetchRecord()).attempts

    for least in (2, 4):
        with fetching(repository.store, settings, FetchLimits(read_seconds=0.02)):
            wait_for(lambda least=least: attempts() >= least)  # type: ignore[misc]
    assert repository.fetches.uuids() == ["job-1"]


def test_a_fetcher_says_that_it_lives_and_goodbye(tmp_path: Path) -> None:
    store = ObjectStore.in_memory()
    with fetching(store, make_settings(tmp_path)) as fetcher:
        wait_for(lambda: [heartbeat.name for heartbeat in live_fetchers(store)] == [fetcher.name])
    assert all_fetchers(store) == []


@pytest.mark.process
def test_two_fetchers_share_the_jobs_and_one_takes_over_from_one_that_is_silent(
    tmp_path: Path, site: Site
) -> None:
    repository = JobRepository(ObjectStore.in_memory())
    heartbeat = FetcherHeartbeat(
        "elsewhere-1", 1, "elsewhere", datetime.now(UTC) + timedelta(seconds=3)
    )
    write_fetcher_heartbeat(repository.store, heartbeat)
    settings = make_settings(tmp_path, worker_stale_seconds=1, heartbeat_seconds=0.05)
    with fetching(repository.store, settings) as fetcher:
        wait_for(lambda: len(fetcher._names) == 2)
        for index in range(40):
            accept(repository, f"job-{index}", site.url())
        wait_for(lambda: 0 < len(waiting_uuids(repository, 100)) < 40)
        wait_for(lambda: len(waiting_uuids(repository, 100)) == 40)


def _fetch_for_ever(settings: Settings) -> None:
    asyncio.run(Fetcher(open_store(settings), settings, limits=QUICK).run(asyncio.Event()))


@pytest.mark.slow
def test_fetchers_that_are_killed_again_and_again_lose_no_job(tmp_path: Path, site: Site) -> None:
    settings = make_settings(tmp_path)
    repository = JobRepository(open_store(settings))
    uuids = [f"job-{index:02}" for index in range(60)]
    for index, uuid in enumerate(uuids):
        accept(repository, uuid, site.url())
        if index % 12 == 0:
            process = multiprocessing.get_context("spawn").Process(
                target=_fetch_for_ever, args=(settings,)
            )
            process.start()
            wait_for(lambda done=index: len(waiting_uuids(repository, 100)) >= done)  # type: ignore[misc]
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
    with fetching(repository.store, settings):
        wait_for(lambda: sorted(waiting_uuids(repository, 100)) == uuids)
    assert all(record_of(repository, uuid).state is FetchState.FETCHED for uuid in uuids)
