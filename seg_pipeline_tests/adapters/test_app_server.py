"""The PATCH as the app server sees it, and what becomes of every way in which it can be
answered."""

import hashlib
import hmac
import json
import re
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from seg_pipeline.adapters.app_server import LIMITS, AppServer, DeliveryLimits, sign, verify
from seg_pipeline.adapters.deadlines import run_promptly
from seg_pipeline.errors import NotAnImage
from seg_pipeline.jobs.answers import callback
from seg_pipeline.jobs.deliveries import Reply
from seg_pipeline.jobs.records import Result, completed_result, failed_result
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline.store.serialization import to_document
from seg_pipeline_tests.app_servers import (
    Answer,
    AppServerDouble,
    app_server,
    drip,
    hang,
    hang_up,
    say,
)
from seg_pipeline_tests.builders import make_found, make_job, make_timing
from seg_pipeline_tests.conftest import make_settings

IMPATIENT = DeliveryLimits(total_seconds=0.3)
INCURIOUS = DeliveryLimits(answer_seconds=0.2, answer_bytes=1000)
DOCUMENT = {"uuid": "job-1", "status": "completed", "segments": []}
SECRET = "a secret"
NOW = 1_767_355_200.0
DOCS = Path(__file__).parents[2] / "docs"


def make_app_server(url: str, limits: DeliveryLimits = LIMITS, **values: Any) -> AppServer:
    settings = make_settings(Path("nowhere"), app_server_url=url, **values)
    return AppServer(settings, limits, clock=lambda: NOW)


def tell(server: AppServer, document: dict[str, Any] = DOCUMENT, times: int = 1) -> Reply:
    async def told() -> Reply:
        async with server.session() as session:
            for _ in range(times - 1):
                await session.tell(document["uuid"], document)
            return await session.tell(document["uuid"], document)

    return run_promptly(told())


def reply_to(answer: Answer, **values: Any) -> Reply:
    with app_server(answer) as double:
        return tell(make_app_server(double.url, **values))


# What is sent


def test_the_patch_has_the_seeds_path_header_and_body() -> None:
    with app_server() as double:
        reply = tell(make_app_server(double.url, app_server_api_key="key-1"))
    assert (reply.status, reply.problem, reply.is_delivered) == (200, None, True)
    (told,) = double.told
    assert told.path == "/api/v1/re-imagine/auto-mask/job-1"
    assert told.document == DOCUMENT
    assert (told.headers["x-api-key"], told.headers["content-type"]) == (
        "key-1",
        "application/json",
    )


@pytest.mark.parametrize(
    "base", ["https://app.example", "https://app.example/", "https://app.example/v2/"]
)
def test_the_address_may_have_a_path_and_a_slash_at_its_end(base: str) -> None:
    expected = base.rstrip("/") + "/api/v1/re-imagine/auto-mask/job-1"
    assert make_app_server(base).url("job-1") == expected


def test_without_key_and_secret_no_header_speaks_of_them() -> None:
    headers = make_app_server("https://app.example").patch("job-1", DOCUMENT).headers
    assert not {"x-api-key", "x-signature", "x-signature-timestamp"} & headers.keys()


def test_a_line_end_after_the_key_is_not_part_of_it() -> None:
    server = make_app_server("https://app.example", app_server_api_key="key-1\n")
    assert server.patch("job-1", DOCUMENT).headers["x-api-key"] == "key-1"


_JOB, _TIMING = make_job(), make_timing()
_RESULTS = {
    "some found": completed_result(_JOB, make_found("#..#/#..#/####", ".##./.##./...."), _TIMING),
    "nothing found": completed_result(_JOB, make_found(), _TIMING),
    "failed": failed_result(_JOB, NotAnImage("It is an HTML page."), _TIMING),
}


@pytest.mark.parametrize("result", _RESULTS.values(), ids=_RESULTS.keys())
def test_every_payload_fits_the_schema_in_docs(result: Result) -> None:
    """As the app server parses it: from the bytes that arrived."""
    with app_server() as double:
        tell(
            make_app_server(double.url),
            to_document(callback(result, ObjectStore.in_memory(), "http://localhost")),
        )
    schema = json.loads((DOCS / "job-result.schema.json").read_text())
    Draft202012Validator({**schema, "anyOf": [{"$ref": "#/$defs/callback"}]}).validate(
        double.told[0].document
    )


# The signature


def test_the_signature_is_an_hmac_over_timestamp_and_body() -> None:
    """Spelled out as another language would do it."""
    patch = make_app_server("https://app.example", callback_secret=SECRET).patch("job-1", DOCUMENT)
    assert patch.headers["x-signature-timestamp"] == "1767355200"
    message = b"1767355200." + patch.body
    expected = hmac.new(SECRET.encode(), message, hashlib.sha256).hexdigest()
    assert patch.headers["x-signature"] == f"sha256={expected}"


def test_what_arrives_verifies_and_nothing_else_does() -> None:
    with app_server() as double:
        tell(make_app_server(double.url, callback_secret=SECRET))
    (told,) = double.told
    assert verify(SECRET, told.headers, told.body, NOW)
    assert verify(
        SECRET, {name.title(): value for name, value in told.headers.items()}, told.body, NOW + 299
    )
    assert not verify("another secret", told.headers, told.body, NOW)
    assert not verify(SECRET, told.headers, told.body + b" ", NOW)
    assert not verify(
        SECRET, {**told.headers, "x-signature-timestamp": "1767355201"}, told.body, NOW
    )
    assert not verify(SECRET, {}, told.body, NOW)


def test_an_old_patch_does_not_verify_though_it_is_ours() -> None:
    """Whoever recorded one may not play it again."""
    patch = make_app_server("https://app.example", callback_secret=SECRET).patch("job-1", DOCUMENT)
    assert not verify(SECRET, patch.headers, patch.body, NOW + 301)
    assert not verify(SECRET, patch.headers, patch.body, NOW - 301)


def test_each_try_is_signed_anew() -> None:
    times = iter([NOW, NOW + 600])
    settings = make_settings(
        Path("nowhere"), app_server_url="https://app.example", callback_secret=SECRET
    )
    server = AppServer(settings, clock=lambda: next(times))
    first, second = (server.patch("job-1", DOCUMENT).headers for _ in range(2))
    assert first["x-signature-timestamp"] != second["x-signature-timestamp"]
    assert first["x-signature"] != second["x-signature"]


@pytest.mark.parametrize("timestamp", ["", "soon", "1e9", "\N{SUPERSCRIPT TWO}"])
def test_a_timestamp_that_is_no_number_does_not_verify(timestamp: str) -> None:
    headers = {"x-signature-timestamp": timestamp, "x-signature": sign(SECRET, timestamp, b"{}")}
    assert not verify(SECRET, headers, b"{}", NOW)


# What comes back


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_two_hundreds_are_delivered(status: int) -> None:
    assert reply_to(say(status, b"" if status == 204 else b"{}")).is_delivered


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422])
def test_other_four_hundreds_are_final(status: int) -> None:
    reply = reply_to(say(status, b'{"detail": "no such mask"}'))
    assert (reply.is_delivered, reply.is_final) == (False, True)
    assert reply.problem is not None
    assert re.fullmatch(
        rf'the app server answered {status} .*: {{"detail": "no such mask"}}', reply.problem
    )


@pytest.mark.parametrize(
    "status", [300, 302, 304, 308, 408, 409, 425, 429, 500, 502, 503, 504, 599, 600, 999]
)
def test_what_may_pass_is_worth_a_retry(status: int) -> None:
    reply = reply_to(say(status))
    assert (reply.status, reply.is_delivered, reply.is_final) == (status, False, False)


def test_a_redirect_is_not_followed_because_the_key_would_go_along() -> None:
    with app_server() as elsewhere, app_server(say(307, location=elsewhere.url)) as double:
        reply = tell(make_app_server(double.url, app_server_api_key="key-1"))
    assert elsewhere.told == []
    assert (reply.status, reply.is_delivered, reply.is_final) == (307, False, False)
    assert "not followed" in (reply.problem or "")


@pytest.mark.parametrize(("header", "seconds"), [
    ("120", 120), ("Fri, 02 Jan 2026 12:01:00 GMT", 60), ("Fri, 02 Jan 2026 11:00:00 GMT", 0),
    ("soon", 0),
    ("-5", 0), ("9" * 400, 999_999_999),
])  # fmt: skip
def test_retry_after_is_read_as_seconds_or_as_a_date(header: str, seconds: float) -> None:
    assert reply_to(say(503, retry_after=header)).retry_after_seconds == seconds


def test_a_server_that_hangs_is_left() -> None:
    reply = reply_to(hang, limits=IMPATIENT)
    assert (reply.status, reply.is_final) == (None, False)
    assert reply.problem is not None


@pytest.mark.parametrize("quiet_seconds", [5.5, 12])
@pytest.mark.process
def test_an_answer_within_the_15_seconds_of_the_document_counts(quiet_seconds: float) -> None:
    """Nothing in the client may give up before: not after 5 s of connecting, nor after 10 s of
    silence."""

    def late(handler: Any, double: AppServerDouble) -> None:
        double.over.wait(quiet_seconds)
        say(204, b"")(handler, double)

    assert reply_to(late).is_delivered


def test_the_limit_is_the_documents() -> None:
    text = (DOCS / "callbacks.md").read_text()
    (promised,) = set(re.findall(r"no answer within (\d+) s", text))
    assert LIMITS.total_seconds == float(promised)


def test_a_server_that_takes_no_connection_is_left_after_the_same_time() -> None:
    """A queue of one that is full: the kernel answers no further connection."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [_connecting(port) for _ in range(4)]
        reply = tell(make_app_server(f"http://127.0.0.1:{port}", IMPATIENT))
        for each in waiting:
            each.close()
    assert (reply.status, reply.problem) == (None, "no answer within 0.3 s.")


def _connecting(port: int) -> socket.socket:
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex(("127.0.0.1", port))
    return client


def test_a_server_that_reads_the_request_slowly_is_left() -> None:
    """It takes a little now and then, so that no single write hangs."""
    document = {**DOCUMENT, "segments": ["x" * 2**20] * 32}
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_sip, args=(listener, over), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        reply = tell(make_app_server(url, IMPATIENT), document)
        over.set()
    assert (reply.status, reply.problem) == (None, "no answer within 0.3 s.")


def _sip(listener: socket.socket, over: threading.Event) -> None:
    connection, _ = listener.accept()
    with connection, suppress(OSError):
        while connection.recv(1000) and not over.wait(0.02):
            pass


def test_a_server_that_sends_hints_without_end_is_left() -> None:
    reply = reply_to(drip(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"), limits=IMPATIENT)
    assert (reply.status, reply.problem) == (None, "no answer within 0.3 s.")


def test_a_name_that_is_never_found_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver's thread cannot be stopped, but nothing waits for it."""
    release = threading.Event()

    def hang(*_: object, **__: object) -> None:
        release.wait(60)
        raise OSError("nobody answered")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    began = time.monotonic()
    reply = tell(make_app_server("http://app.example", IMPATIENT))
    assert (reply.status, reply.problem) == (None, "no answer within 0.3 s.")
    assert time.monotonic() - began < 30
    release.set()


def test_a_server_that_sends_its_head_byte_by_byte_is_left() -> None:
    """Each byte comes within the limit of silence; the total is what ends it."""
    reply = reply_to(drip(b"HTTP/1.1 200 OK\r\n", b"x-slow: 1\r\n"), limits=IMPATIENT)
    assert (reply.status, reply.problem) == (None, "no answer within 0.3 s.")


def test_an_answer_counts_though_its_body_never_ends() -> None:
    reply = reply_to(drip(b"HTTP/1.1 200 OK\r\n\r\n", b"."), limits=INCURIOUS)
    assert reply.is_delivered


def test_of_an_endless_answer_only_the_beginning_is_read() -> None:
    reply = reply_to(drip(b"HTTP/1.1 404 Not Found\r\n\r\n", b"x" * 10_000), limits=INCURIOUS)
    assert (reply.status, reply.is_final) == (404, True)
    assert len(reply.problem or "") < 400


def test_a_connection_that_breaks_off_is_a_problem_of_the_moment() -> None:
    reply = reply_to(hang_up)
    assert (reply.status, reply.is_final) == (None, False)


def test_a_server_that_is_not_there_is_a_problem_of_the_moment() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    reply = tell(make_app_server(f"http://127.0.0.1:{port}"))
    assert (reply.status, reply.is_final) == (None, False)
    assert "ConnectError" in (reply.problem or "")


@pytest.mark.parametrize(
    "url", ["app.example", "ftp://app.example", "http://", "http://[", "http://a..b", "://"]
)
def test_an_address_that_is_none_is_told_and_can_be_mended(url: str) -> None:
    reply = tell(make_app_server(url))
    assert (reply.status, reply.is_final) == (None, False)
    assert reply.problem


def test_a_server_that_speaks_no_http_is_a_problem_of_the_moment() -> None:
    reply = reply_to(drip(b"220 mail.example ESMTP\r\n", b"\r\n"))
    assert (reply.status, reply.is_final) == (None, False)


def test_a_server_that_quotes_our_secrets_does_not_put_them_into_our_records() -> None:
    reply = reply_to(
        say(401, b"bad key key-1, bad secret a secret"),
        app_server_api_key="key-1",
        callback_secret=SECRET,
    )
    assert "key-1" not in (reply.problem or "")
    assert SECRET not in (reply.problem or "")


def test_a_key_that_cannot_be_sent_is_not_told_either() -> None:
    reply = reply_to(say(), app_server_api_key="key\x00-1")
    assert reply.status is None
    assert "-1" not in (reply.problem or "")


def test_line_ends_of_an_answer_do_not_break_a_record_into_lines() -> None:
    assert "\n" not in (reply_to(say(404, b"one\r\ntwo\x1b[31m")).problem or "")


def test_one_session_keeps_its_connection() -> None:
    with app_server() as double:
        tell(make_app_server(double.url), times=3)
    assert len(double.told) == 3
    assert len({told.connection for told in double.told}) == 1


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """An egress proxy would see key and payload; whoever wants one sets APP_SERVER_URL to it."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert reply_to(say()).is_delivered


def test_the_documents_own_check_of_the_signature_works() -> None:
    text = (DOCS / "callbacks.md").read_text()
    code: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], code)
    server = AppServer(
        make_settings(Path("nowhere"), app_server_url="https://app.example", callback_secret=SECRET)
    )
    patch = server.patch("job-1", DOCUMENT)
    assert code["is_genuine"](SECRET, patch.headers, patch.body)
    assert not code["is_genuine"](SECRET, patch.headers, patch.body + b" ")
