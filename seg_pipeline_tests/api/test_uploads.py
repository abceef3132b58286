"""Bodies as they arrive, over bare sockets: too large, too slow, broken off."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest

from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store
from seg_pipeline_tests.api.serving import Serve, eventually
from seg_pipeline_tests.api.stand_ins import DRAWING, finish_job
from seg_pipeline_tests.builders import picture_bytes, waiting_uuids

PICTURE = picture_bytes()
MIB = 2**20


def test_a_body_that_announces_too_much_is_refused_before_it_is_sent(serve: Serve) -> None:
    """curl waits for a word before it sends a large body; the word is no, and never "100
    Continue"."""
    with connected(serve(max_image_bytes=MIB)) as wire:
        wire.sendall(head("/segment", f"Content-Length: {MIB + 1}", "Expect: 100-continue"))
        answer = everything(wire)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"image_too_large" in answer
    assert b"100 Continue" not in answer


@pytest.mark.parametrize("path", ["/segment", "/jobs"])
@pytest.mark.parametrize("form", [False, True])
def test_an_endless_body_is_refused_at_the_limit_while_it_is_still_coming(
    serve: Serve, path: str, form: bool
) -> None:
    """The answer is there although the body never ends, and the server lets go."""
    opening = (
        b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n' if form else b""
    )
    content_type = (
        "multipart/form-data; boundary=x"
        if form
        else "application/json"
        if path == "/jobs"
        else "image/png"
    )
    with connected(serve(max_image_bytes=MIB)) as wire:
        wire.sendall(
            head(path, "Transfer-Encoding: chunked", f"Content-Type: {content_type}")
            + chunk(opening)
        )
        assert sent_until_refused(wire, chunk(bytes(64 * 1024))) < 100 * MIB
        assert received(wire).startswith(b"HTTP/1.1 413")


def test_a_client_that_sends_all_before_it_listens_still_sees_the_answer(serve: Serve) -> None:
    """Closing at once would reset the connection, and many clients would report that instead."""
    client = serve(max_image_bytes=MIB)
    for length in (2 * MIB, 8 * MIB):
        response = client.post("/segment", content=bytes(length))
        assert (response.status_code, response.json()["code"]) == (413, "image_too_large")
        assert response.headers["connection"] == "close"
    unknown = client.post("/nowhere", content=bytes(4 * MIB))
    assert unknown.status_code == 404


def test_a_picture_at_the_limit_is_accepted_and_one_byte_more_is_not(serve: Serve) -> None:
    client = serve(max_image_bytes=len(PICTURE), wait_seconds=0)
    for body, status in ((PICTURE, 202), (PICTURE + b"\0", 413)):
        assert client.post("/segment", content=body).status_code == status
        assert client.post("/segment", content=iter([body])).status_code == status
        assert client.post("/segment", files={"a": ("a.png", body)}).status_code == status


def test_a_forms_fields_are_small_and_few(serve: Serve) -> None:
    client = serve(max_image_bytes=MIB)
    large = client.post("/segment", data={"model": "x" * 20_000}, files={"a": PICTURE})
    many = client.post(
        "/segment", data={f"field{number}": "x" for number in range(50)}, files={"a": PICTURE}
    )
    assert (large.status_code, many.status_code) == (422, 422)


@pytest.mark.parametrize("sent", [b"", PICTURE[:40]])
def test_a_body_that_stalls_is_given_up(serve: Serve, sent: bytes) -> None:
    with connected(serve(upload_stall_seconds=0.2)) as wire:
        wire.sendall(head("/segment", f"Content-Length: {len(PICTURE)}") + sent)
        answer = everything(wire)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"body_too_slow" in answer


def test_a_body_that_drips_for_ever_is_given_up_too(serve: Serve) -> None:
    """A byte now and then is no stall, but ten stalls' time is enough for any body."""
    with connected(serve(upload_stall_seconds=0.1)) as wire:
        wire.sendall(head("/segment", "Content-Length: 100000"))
        wire.settimeout(0.02)
        answer = b""
        while not answer:
            wire.sendall(b"x")
            try:
                answer = wire.recv(65536)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\nHo"])
def test_a_connection_that_never_says_what_it_wants_is_closed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """A few hundred of them would otherwise hold every connection that there is."""
    monkeypatch.setattr("api.connections.HEAD_SECONDS", 0.2)
    with connected(serve()) as wire:
        wire.sendall(sent)
        assert received(wire) == b""


def test_a_head_without_end_is_cut_off(serve: Serve) -> None:
    client = serve()
    with connected(client) as wire:
        wire.sendall(b"GET /livez HTTP/1.1\r\n")
        assert sent_until_refused(wire, b"X-Filler: " + b"x" * 65536 + b"\r\n") < 100 * MIB
    assert client.get("/livez").status_code == 200


def test_requests_on_one_connection_each_have_their_time(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.connections.HEAD_SECONDS", 1)
    with connected(serve()) as wire:
        for pause in (0, 1.2):
            time.sleep(pause)
            wire.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert wire.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("host", ["[", "x:99999", "x:y", "", "[::1", "a b", "x/y?z#", "\xff"])
def test_a_strange_host_is_no_fault_of_ours(serve: Serve, host: str) -> None:
    """It is where links come from when BASE_URL is not set."""
    client = serve(wait_seconds=0)
    with connected(client) as wire:
        request = (
            f"POST /segment HTTP/1.1\r\nHost: {host}\r\nContent-Length:"
            f" {len(PICTURE)}\r\nConnection: close\r\n\r\n"
        )
        wire.sendall(request.encode("latin-1") + PICTURE)
        status = int(everything(wire).split(b" ", 2)[1])
    assert status in (202, 400)


def test_a_client_that_breaks_off_leaves_no_job_and_no_trace(
    serve: Serve, api_store: Store
) -> None:
    client = serve()
    with connected(client) as wire:
        wire.sendall(head("/segment", f"Content-Length: {len(PICTURE)}") + PICTURE[:40])
    eventually(lambda: metric(client, "seg_api_requests_under_way") == 0)
    assert waiting_uuids(JobRepository(api_store), 10) == []
    assert client.get("/livez").status_code == 200


def test_a_client_that_stops_waiting_is_waited_for_no_longer_and_its_job_goes_on(
    serve: Serve, api_store: Store
) -> None:
    client = serve(wait_seconds=300)
    with connected(client) as wire:
        wire.sendall(head("/segment?uuid=mine", f"Content-Length: {len(PICTURE)}") + PICTURE)
        eventually(lambda: metric(client, "seg_api_requests_waiting") == 1)
    eventually(lambda: metric(client, "seg_api_requests_waiting") == 0)
    assert client.get("/jobs/mine").json()["status"] == "queued"


@pytest.mark.process
def test_many_wait_at_once_without_a_thread_each(serve: Serve, api_store: Store) -> None:
    """More than the thread pool holds; each gets its own answer."""
    client = serve(wait_seconds=60)
    answers: dict[str, httpx.Response] = {}

    def ask(uuid: str) -> None:
        answers[uuid] = httpx.post(
            f"{client.base_url}/segment?uuid={uuid}", content=PICTURE, timeout=60
        )

    threads = [threading.Thread(target=ask, args=(f"job-{number}",)) for number in range(60)]
    for thread in threads:
        thread.start()
    eventually(lambda: metric(client, "seg_api_requests_waiting") == 60)
    assert client.get("/readyz").status_code == 503
    for number in range(60):
        finish_job(api_store, f"job-{number}", DRAWING)
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers.values()} == {200}
    assert all(answer.json()["uuid"] == uuid for uuid, answer in answers.items())


def test_when_too_many_wait_the_next_gets_its_address_at_once(serve: Serve) -> None:
    assert (
        serve(wait_seconds=300, max_waiting=0).post("/segment", content=PICTURE).status_code == 202
    )


@contextmanager
def connected(client: httpx.Client) -> Iterator[socket.socket]:
    """A bare connection to the client's server."""
    with socket.create_connection(
        (client.base_url.host, client.base_url.port or 80), timeout=20
    ) as wire:
        yield wire


def head(path: str, *headers: str) -> bytes:
    """A POST's head."""
    return "\r\n".join((f"POST {path} HTTP/1.1", "Host: x", *headers, "", "")).encode()


def chunk(data: bytes) -> bytes:
    """A piece of a chunked body; nothing for no data, which would end it."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def sent_until_refused(wire: socket.socket, piece: bytes) -> int:
    """Sends the piece again and again until the other side hangs up; how many bytes it took, at
    most 200 MiB."""
    sent = 0
    with suppress(OSError):
        while sent < 200 * MIB:
            wire.sendall(piece)
            sent += len(piece)
    return sent


def everything(wire: socket.socket) -> bytes:
    """What comes until the server closes."""
    return b"".join(iter(lambda: wire.recv(65536), b""))


def received(wire: socket.socket) -> bytes:
    """What had come when the connection ended, however it did."""
    pieces = []
    try:
        while piece := wire.recv(65536):
            pieces.append(piece)
    except ConnectionError:
        pass
    return b"".join(pieces)


def metric(client: httpx.Client, name: str) -> float:
    """A gauge of the served process."""
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))
