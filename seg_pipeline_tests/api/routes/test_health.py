"""Probes: alive, ready, idle."""

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from seg_pipeline.errors import StoreUnavailable
from seg_pipeline.jobs.drain import Drain, begin_drain
from seg_pipeline.jobs.heartbeats import FetcherHeartbeat, write_fetcher_heartbeat, write_heartbeat
from seg_pipeline.store import Store, keys
from seg_pipeline_tests.api.serving import Serve, eventually
from seg_pipeline_tests.api.stand_ins import FailingStore, heartbeat
from seg_pipeline_tests.builders import NOON, make_heartbeat, picture_bytes

PICTURE = picture_bytes()


def test_health_fails_once_nobody_has_asked_for_a_while(serve: Serve) -> None:
    client = serve(health_idle_seconds=1)
    assert client.get("/health").status_code == 200
    client.get("/jobs")
    assert client.get("/health").status_code == 200
    while (response := client.get("/health")).status_code == 200:
        time.sleep(0.05)
    assert (response.status_code, response.json()) == (500, {"status": "idle"})
    client.get("/jobs")
    assert client.get("/health").status_code == 200


def test_asking_for_its_health_is_no_request(serve: Serve) -> None:
    """Else the check would keep itself alive."""
    client = serve(health_idle_seconds=1)
    client.get("/jobs")
    codes = set()
    while 500 not in codes:
        time.sleep(0.05)
        codes |= {client.get(path).status_code for path in ("/health", "/livez", "/metrics")}
    assert codes == {200, 500}


def test_it_is_ready_when_store_inbox_and_a_worker_are_there(
    serve: Serve, api_store: Store
) -> None:
    heartbeat(api_store)
    response = serve().get("/readyz")
    assert response.status_code == 200
    checks = {"store": "ok", "inbox": "ok", "runs": "ok", "worker": "ok", "fetcher": "ok"}
    assert response.json() == {"status": "ready", "checks": checks}


def test_while_it_is_drained_it_is_not_ready(serve: Serve, api_store: Store) -> None:
    heartbeat(api_store)
    now = datetime.now(UTC)
    begin_drain(api_store, Drain(now, now + timedelta(hours=1)))
    response = serve().get("/readyz")
    assert response.status_code == 503
    assert response.json()["checks"]["runs"].startswith("drained by an operator until ")


def test_without_a_fetcher_it_is_not_ready_while_there_is_a_picture_to_fetch(
    serve: Serve, api_store: Store
) -> None:
    heartbeat(api_store)
    api_store.put(keys.fetching("job-1"), b"")
    response = serve().get("/readyz")
    assert response.status_code == 503
    assert "no fetcher has given a sign of life" in response.json()["checks"]["fetcher"]
    write_fetcher_heartbeat(api_store, FetcherHeartbeat("fetcher-1", 1, "host", datetime.now(UTC)))
    assert serve().get("/readyz").status_code == 200


def test_without_a_live_worker_it_says_so(serve: Serve) -> None:
    response = serve().get("/readyz")
    assert response.status_code == 503
    assert response.json()["checks"]["store"] == "ok"
    assert "no worker" in response.json()["checks"]["worker"]


def test_a_worker_that_says_that_it_can_do_nothing_is_none(serve: Serve, api_store: Store) -> None:
    """What it said stands when it is gone, too, and until another lives."""
    write_heartbeat(api_store, make_heartbeat("long-gone", NOON, problem="there is no GPU"))
    assert (
        "no worker can work: there is no GPU; jobs"
        in serve().get("/readyz").json()["checks"]["worker"]
    )
    write_heartbeat(
        api_store, make_heartbeat("here", datetime.now(UTC), problem="there is no storage")
    )
    assert (
        "no worker can work: there is no storage; jobs"
        in serve().get("/readyz").json()["checks"]["worker"]
    )
    heartbeat(api_store)
    assert serve().get("/readyz").json()["checks"]["worker"] == "ok"


@pytest.mark.parametrize(
    ("prefix", "missing"),
    [("", "store"), (keys.INBOX, "inbox"), (keys.WORKERS, "worker"), (keys.FETCHING, "fetcher")],
)
def test_it_names_what_is_missing(
    serve: Serve, api_store: Store, prefix: str, missing: str
) -> None:
    heartbeat(api_store)
    failing = FailingStore(api_store)
    client = serve(failing)
    failing.error, failing.fails_on = (
        StoreUnavailable("it is away."),
        lambda key: key.startswith(prefix),
    )
    if prefix:
        failing.fails_on = lambda key: key == prefix
    response = client.get("/readyz")
    assert response.status_code == 503
    assert "it is away." in response.json()["checks"][missing]
    assert client.get("/livez").status_code == 200


def test_probes_do_not_hammer_the_store(serve: Serve, api_store: Store) -> None:
    counting = FailingStore(api_store)
    client = serve(counting)
    looked: list[str] = []

    def look(key: str) -> bool:
        looked.append(key)
        return False

    counting.error, counting.fails_on = StoreUnavailable("never raised."), look
    for _ in range(20):
        client.get("/readyz")
    assert looked.count(keys.INBOX) < 20
    assert looked.count(keys.INBOX) >= 1


def test_metrics_count_by_route_and_never_by_job(serve: Serve) -> None:
    client = serve()
    client.get("/jobs/some-uuid")
    client.get("/jobs/other-uuid")
    client.get("/nowhere/some-uuid")
    client.request("TRACE", "/jobs")
    text = client.get("/metrics").text
    assert 'seg_api_requests_total{method="GET",route="/jobs/{uuid}",status="404"} 2.0' in text
    assert 'route="unmatched"' in text
    assert 'method="other"' in text
    assert "uuid}" in text
    assert "some-uuid" not in text


def test_probes_answer_while_every_thread_waits_for_the_store(
    serve: Serve, api_store: Store
) -> None:
    """A store that takes its time over uploads; the process is alive, and can say so."""
    go_on = threading.Event()

    class Stuck:
        def __getattr__(self, name: str) -> Any:
            method = getattr(api_store, name)
            if name != "create":
                return method
            return lambda *args, **named: go_on.wait(60) and method(*args, **named)

    client = serve(Stuck(), wait_seconds=0)
    posts = [
        threading.Thread(target=client.post, args=("/segment",), kwargs={"content": PICTURE})
        for _ in range(60)
    ]
    for post in posts:
        post.start()
    try:
        eventually(lambda: "seg_api_requests_under_way 60.0" in client.get("/metrics").text)
        assert [client.get(path).status_code for path in ("/livez", "/health", "/metrics")] == [
            200
        ] * 3
        assert client.get("/readyz").json()["checks"]["store"] == "ok"
    finally:
        go_on.set()
        for post in posts:
            post.join()
