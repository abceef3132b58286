"""What is sent, when it is sent again, and where the key goes, at a server that answers by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest

from seg_client import ApiError, Client, ConnectionFailed, UnexpectedAnswer
from seg_client.addresses import Address
from seg_client.errors import Busy, InternalError
from seg_client.flows import Send, file, wait
from seg_client.retries import Deadline
from seg_pipeline_tests.builders import picture_bytes
from seg_pipeline_tests.pauses import note_pauses
from seg_pipeline_tests.running_stack import free_ports
from seg_pipeline_tests.serving import http_server

BUSY = '{"error": "Too much is under way.", "code": "busy"}'
BROKEN = '{"error": "Something went wrong.", "code": "internal_error"}'
QUEUED = (
    '{"uuid": "job-1", "status": "queued", "model": "m", "accepted_at": "2026-01-02T12:00:00Z"}'
)

Answer = tuple[int, dict[str, str], str]
GOES_ON: Answer = (200, {}, QUEUED)


@contextmanager
def answering(*answers: Answer) -> Iterator[tuple[str, list[str]]]:
    """A server that gives these answers in turn, the last one for ever; its URL and the paths that
    it was asked for."""
    asked: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answers[min(len(asked), len(answers) - 1)]
            asked.append(self.path)
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        def do_POST(self) -> None:
            self.do_GET()

    with http_server(Answers) as port:
        yield f"http://127.0.0.1:{port}", asked


def test_a_busy_service_is_asked_again_after_its_pause() -> None:
    refused: tuple[Answer, ...] = (503, {"retry-after": "0"}, BUSY), (502, {}, "Bad gateway")
    with answering(*refused, GOES_ON) as (url, asked), Client(url) as client:
        assert client.job("job-1").status() == "queued"
    assert len(asked) == 3


def test_the_last_refusal_is_raised_when_the_time_is_used_up() -> None:
    with (
        answering((503, {"retry-after": "3600"}, BUSY)) as (url, asked),
        Client(url, retry_seconds=5) as client,
        pytest.raises(Busy, match="under way"),
    ):
        client.submit(picture_bytes())
    assert len(asked) == 1


def test_a_fault_that_stays_is_not_tried_again() -> None:
    with (
        answering((500, {}, BROKEN)) as (url, asked),
        Client(url) as client,
        pytest.raises(InternalError),
    ):
        client.submit(picture_bytes())
    assert len(asked) == 1


def test_the_same_job_is_sent_again_under_the_same_uuid() -> None:
    with (
        answering((503, {"retry-after": "0"}, BUSY), GOES_ON) as (url, asked),
        Client(url) as client,
    ):
        client.submit(picture_bytes())
    assert asked[0] == asked[1]
    assert "uuid=" in asked[0]


@pytest.mark.parametrize("body", ["<html>", "[]", '{"uuid": "job-1"}'])
def test_an_answer_of_something_else_is_named(body: str) -> None:
    with (
        answering((200, {}, body)) as (url, _),
        Client(url) as client,
        pytest.raises(UnexpectedAnswer),
    ):
        client.job("job-1").status()


def test_a_service_that_is_not_there_is_named() -> None:
    client = Client(f"http://127.0.0.1:{free_ports(1)[0]}", retry_seconds=0)
    with client, pytest.raises(ConnectionFailed, match="/jobs/job-1"):
        client.job("job-1").status()


def test_a_file_of_another_host_is_had_without_the_key() -> None:
    headers = Address("http://service/base", "secret").arguments(Send("GET", "/jobs/a"))["headers"]
    assert headers == {"x-api-key": "secret"}
    for url in ("http://bucket/a.png", "https://service/a.png", "http://service:81/a.png"):
        assert Address("http://service", "secret").arguments(Send("GET", url))["headers"] == {}


def test_paths_are_below_the_service_and_links_keep_their_query() -> None:
    address = Address("http://service/base/", None)
    assert address.arguments(Send("GET", "/jobs/a"))["url"] == "http://service/base/jobs/a"
    signed = "http://service/a.png?expires=1&signature=ab"
    assert address.arguments(Send("GET", signed))["url"] == signed


def test_an_address_without_a_scheme_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="begin it with http"):
        Client("localhost:8000")


def test_a_file_is_its_bytes() -> None:
    with answering((200, {}, "bytes")) as (url, _), Client(url) as client:
        assert client.run(file(f"{url}/a.png", 5)) == b"bytes"


def test_a_service_that_does_not_wait_is_asked_after_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As an older one does."""
    pauses: list[float] = []
    note_pauses(monkeypatch, pauses.append)
    failed = '{"uuid": "job-1", "status": "failed", "model": "m", '
    failed += '"accepted_at": "2026-01-02T12:00:00Z", "error": {"code": "x", "message": "No."}}'
    answers: tuple[Answer, ...] = (GOES_ON, GOES_ON, (200, {}, failed))
    with answering(*answers) as (url, asked), Client(url) as client, pytest.raises(ApiError):
        client.job("job-1").wait(5)
    assert len(asked) == 3
    assert 0 < pauses[0] < pauses[1]


def test_waiting_is_asked_for_in_the_request() -> None:
    flow = wait("job-1", Deadline(100), 5)
    send = next(flow)
    assert isinstance(send, Send)
    assert send.headers == {"prefer": "wait=30"}
