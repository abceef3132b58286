"""A service as a client meets it: busy, refusing, away, or not ours."""

import json
from collections.abc import Iterator
from tempfile import TemporaryFile
from typing import Any

import pytest

from seg_pipeline.adapters.remote_service import RemoteService, ServiceRefused
from seg_pipeline_tests.serving import WsgiApp, serving

FAILED = {"uuid": "a", "status": "failed", "error": {"code": "not_an_image", "message": "No."}}
FOUND: dict[str, Any] = {"uuid": "a", "status": "completed", "error": None, "segments": []}
QUEUED = {"uuid": "a", "status": "queued"}


class Script:
    """Answers with each of these in turn, and keeps what was asked."""

    def __init__(self, *answers: tuple[str, Any]) -> None:
        self._answers: Iterator[tuple[str, Any]] = iter(answers)
        self.asked: list[tuple[str, str, bytes, str]] = []

    def __call__(self, environ: dict[str, Any], start: Any) -> list[bytes]:
        """Answers a request."""
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.asked.append((method, path, body, environ.get("HTTP_X_API_KEY", "")))
        status, document = next(self._answers)
        start(status, [("content-type", "application/json"), ("retry-after", "0")])
        return [json.dumps(document).encode()]


def segmented(app: WsgiApp, **options: Any) -> Any:
    """The answer for a picture."""
    with serving(app) as url:
        service = RemoteService(f"{url}/", "key", options)
        with service.segment("a.jpg", b"picture", None) as found:
            return found.answer


def test_a_job_is_asked_for_until_it_has_ended() -> None:
    script = Script(("202 Accepted", QUEUED), ("200 OK", QUEUED), ("200 OK", FOUND))
    assert segmented(script, model="demo-yolo", resize=64) == FOUND
    paths = [(method, path) for method, path, *_ in script.asked]
    assert paths == [("POST", "/jobs"), ("GET", "/jobs/a"), ("GET", "/jobs/a")]
    assert {key for *_, key in script.asked} == {"key"}
    assert b"demo-yolo" in script.asked[0][2]


def test_a_busy_service_is_asked_again_with_the_same_uuid() -> None:
    busy = ("503 Service Unavailable", {"error": "Busy.", "code": "busy"})
    script = Script(busy, ("202 Accepted", QUEUED), ("200 OK", FOUND))
    assert segmented(script) == FOUND
    uuids = [body.split(b'name="uuid"')[1].split(b"--")[0] for _, _, body, _ in script.asked[:2]]
    assert uuids[0] == uuids[1] != b""


def test_the_services_own_sentence_and_code_are_raised() -> None:
    refused = {"error": "Send a key.", "code": "unauthorized"}
    with pytest.raises(ServiceRefused, match=r"Send a key\.") as caught:
        segmented(Script(("401 Unauthorized", refused)))
    assert caught.value.code == "unauthorized"


def test_a_failed_job_raises_its_reason() -> None:
    with pytest.raises(ServiceRefused, match=r"No\."):
        segmented(Script(("202 Accepted", QUEUED), ("200 OK", FAILED)))


def test_another_server_is_told_apart() -> None:
    with pytest.raises(ServiceRefused, match="which is no answer of this service"):
        segmented(Script(("404 Not Found", ["a page"])))


def test_an_address_is_sent_for_the_service_to_fetch() -> None:
    script = Script(("200 OK", FOUND))
    with serving(script) as url:
        service = RemoteService(url)
        with service.segment("a.jpg", None, "https://example.com/a.jpg") as found:
            assert found.answer == FOUND
    assert json.loads(script.asked[0][2])["image_url"] == "https://example.com/a.jpg"


def test_a_file_is_sent_whole_at_each_attempt() -> None:
    busy = ("503 Service Unavailable", {"error": "Busy.", "code": "busy"})
    script = Script(busy, ("202 Accepted", {"uuid": "summer"}))
    with serving(script) as url, TemporaryFile() as file:
        file.write(b"a list")
        RemoteService(url).ask("POST", "/batches", content=file)
    assert [body for _, _, body, _ in script.asked] == [b"a list"] * 2
