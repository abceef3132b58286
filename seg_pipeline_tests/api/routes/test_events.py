"""`GET /jobs/{uuid}/events`, over real connections."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any

import httpx
import pytest

from api import event_stream
from seg_pipeline.jobs.progress import Progress
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import write
from seg_pipeline_tests.api.serving import Serve, eventually
from seg_pipeline_tests.api.stand_ins import DRAWING, finish_job
from seg_pipeline_tests.builders import picture_bytes

Event = tuple[str, dict[str, Any], str]

pytestmark = pytest.mark.timeout(90)
"""A stream that does not end would hold the tests."""


def send(client: httpx.Client, *uuids: str) -> None:
    for uuid in uuids:
        client.post("/jobs", files={"image": picture_bytes()}, data={"uuid": uuid})


def note(store: Store, uuid: str, done: int = 1, total: int = 4) -> None:
    store.put(keys.progress(uuid), write(Progress("segments", datetime.now(UTC), done, total)))


def events_in(response: httpx.Response) -> Iterator[Event]:
    """Name, data and id of each event as it comes."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield fields["event"], json.loads(fields["data"]), fields["id"]
            fields = {}


def test_a_job_is_followed_from_its_queue_to_its_end(serve: Serve, api_store: Store) -> None:
    client = serve()
    send(client, "mine")
    with client.stream("GET", "/jobs/mine/events") as response:
        events = events_in(response)
        assert next(events)[:2] == ("progress", {"uuid": "mine", "status": "queued"})
        note(api_store, "mine", 2)
        name, data, _ = next(events)
        assert (name, data["stage"], data["done"], data["total"]) == ("progress", "segments", 2, 4)
        finish_job(api_store, "mine", DRAWING)
        name, data, last_id = next(events)
        assert (name, data) == ("end", {"uuid": "mine", "status": "completed", "segments": 1})
        assert [*events] == []
    assert response.headers["content-type"].startswith("text/event-stream")
    assert client.get("/jobs/mine/events", headers={"Last-Event-ID": last_id}).status_code == 204


def test_who_comes_back_gets_what_is_new_and_nothing_twice(serve: Serve, api_store: Store) -> None:
    client = serve()
    send(client, "mine")
    note(api_store, "mine", 1)
    with client.stream("GET", "/jobs/mine/events") as response:
        _, _, seen = next(events_in(response))
    with client.stream("GET", "/jobs/mine/events", headers={"Last-Event-ID": seen}) as response:
        events = events_in(response)
        note(api_store, "mine", 2)
        _, data, newer = next(events)
        assert (data["done"], newer != seen) == (2, True)


def test_a_cancel_is_told_to_all_who_listen_at_two_processes(serve: Serve) -> None:
    clients = [serve(), serve()]
    send(clients[0], "mine")

    def follow(number: int) -> dict[str, Any]:
        with clients[number % 2].stream("GET", "/jobs/mine/events") as response:
            return [*events_in(response)][-1][1]

    with ThreadPoolExecutor(6) as pool:
        ends = [pool.submit(follow, number) for number in range(6)]
        eventually(lambda: _listening(clients) == 6)
        clients[0].post("/jobs/mine/cancel")
        for end in ends:
            assert end.result()["error"]["code"] == "cancelled"


def test_listeners_are_bounded_in_all_and_for_each_client(serve: Serve) -> None:
    for values, status, code in (
        ({"max_listeners": 1}, 503, "busy"),
        ({"max_listeners_per_client": 1}, 429, "too_many_requests"),
    ):
        client = serve(**values)
        send(client, "mine")
        with client.stream("GET", "/jobs/mine/events") as first:
            events = events_in(first)  # forgotten, it would end the connection
            next(events)
            refused = client.get("/jobs/mine/events")
            assert (refused.status_code, refused.json()["code"]) == (status, code)
            assert refused.headers["retry-after"]
        eventually(partial(_nobody_listens, client))
        with client.stream("GET", "/jobs/mine/events") as again:
            assert again.status_code == 200


def test_a_listener_that_reads_nothing_is_cut_off_and_its_place_is_free_again(
    serve: Serve, api_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "SEND_SECONDS", 0.2)
    monkeypatch.setattr(event_stream, "BUFFER_BYTES", 1024)
    monkeypatch.setattr(event_stream, "HEARTBEAT_SECONDS", 0.001)
    client = serve()
    send(client, "mine")
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        deaf.connect((client.base_url.host, client.base_url.port))
        deaf.sendall(b"GET /jobs/mine/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        eventually(lambda: _listening([client]) == 1)
        eventually(lambda: _listening([client]) == 0)


def test_what_cannot_be_listened_to_is_refused(serve: Serve) -> None:
    client = serve(api_keys="key")
    assert client.get("/jobs/unknown/events").status_code == 401
    headers = {"x-api-key": "key"}
    assert client.get("/jobs/unknown/events", headers=headers).json()["code"] == "job_not_found"
    assert client.get("/jobs/-/events", headers=headers).json()["code"] == "invalid_uuid"


def test_a_head_is_answered_at_once(serve: Serve) -> None:
    client = serve()
    send(client, "mine")
    head = client.head("/jobs/mine/events")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"].startswith("text/event-stream")


def test_those_who_listen_hold_no_thread_and_are_let_go_when_the_service_ends(
    serve: Serve, api_store: Store
) -> None:
    """Three times as many as the pool has threads; leaving the fixture ends the service."""
    client = serve()
    send(client, "mine")

    def follow(_: int) -> int:
        with client.stream("GET", "/jobs/mine/events") as response:
            return len([*events_in(response)])

    with ThreadPoolExecutor(90) as pool:
        listening = [pool.submit(follow, number) for number in range(90)]
        eventually(lambda: _listening([client]) == 90)
        assert client.get("/jobs/mine").json()["status"] == "queued"
        JobRepository(api_store).cancels.end("mine")
        assert {each.result() for each in listening} == {2}


def _nobody_listens(client: httpx.Client) -> bool:
    return _listening([client]) == 0


def _listening(clients: list[httpx.Client]) -> int:
    return sum(
        int(float(line.split()[1]))
        for client in clients
        for line in client.get("/metrics").text.splitlines()
        if line.startswith("seg_api_listeners ")
    )
