"""Requests that two readers could read in two ways get one answer and a closed connection."""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest

INNER = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
OFFERS = (
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIA\r\n",
    b"Connection: keep-alive, upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    b"Connection: Upgrade\r\nUpgrade: TLS/1.0, HTTP/1.1\r\n",
)
ROUTES = (
    b"POST /segment",
    b"POST /segment/256",
    b"POST /jobs",
    b"GET /jobs",
    b"DELETE /jobs/a",
    b"GET /",
    b"PUT /no",
)
AMBIGUOUS = {
    "both lengths": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + INNER,
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "a list of lengths": b"Content-Length: 5, 5\r\n\r\nabcde",
    "a signed length": b"Content-Length: +5\r\n\r\nabcde",
    "a negative length": b"Content-Length: -1\r\n\r\nabcde",
    "a hexadecimal length": b"Content-Length: 0x5\r\n\r\nabcde",
    "a length with a space": b"Content-Length: 5 5\r\n\r\nabcde",
    "a huge length": b"Content-Length: 99999999999999999999\r\n\r\nabcde",
    "a length behind a space": b"Content-Length : 5\r\n\r\nabcde",
    "a folded header": b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "an encoding that is not chunked": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked, but not last": b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "a bare line feed": b"A: b\nContent-Length: 5\r\n\r\nabcde",
    "a bare carriage return": b"A: b\rContent-Length: 5\r\n\r\nabcde",
    "a NUL": b"A: \0\r\n\r\n",
    "a name that is none": b"A b: c\r\n\r\n",
    "a chunk's size with a sign": b"Transfer-Encoding: chunked\r\n\r\n+5\r\nabcde\r\n0\r\n\r\n",
    "a chunk's size in 0x": b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nabcde\r\n0\r\n\r\n",
    "a chunk's size past 64 bits": (
        b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\na\r\n0\r\n\r\n"
    ),
    "a chunk longer than its size": b"Transfer-Encoding: chunked\r\n\r\n2\r\nabcde\r\n0\r\n\r\n",
}


def answers(client: httpx.Client, *pieces: bytes) -> list[bytes]:
    """The statuses of all answers on one connection, until the server closes it; the pieces arrive
    one by one."""
    got = b""
    with socket.create_connection(
        (client.base_url.host, client.base_url.port or 0), timeout=20
    ) as wire:
        for piece in pieces:
            with suppress(OSError):
                wire.sendall(piece)
            time.sleep(0.02)
        with suppress(ConnectionResetError):
            while received := wire.recv(65536):
                got += received
    return re.findall(rb"HTTP/1\.1 (\d+)", got)


def bodies(inner: bytes) -> Iterator[bytes]:
    """The same body with its length and in chunks."""
    yield b"Content-Length: %d\r\n\r\n%s" % (len(inner), inner)
    yield b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(inner), inner)


@pytest.mark.parametrize("route", ROUTES)
def test_a_body_is_never_a_request_of_its_own(doorman: httpx.Client, route: bytes) -> None:
    """Whatever protocol is offered, and whether the route reads bodies or not."""
    for offer in OFFERS:
        for body in bodies(INNER):
            head, end, data = body.partition(b"\r\n\r\n")
            request = b"%s HTTP/1.1\r\nHost: localhost\r\n%s%s%s" % (route, offer, head, end)
            got = answers(doorman, request, data, LAST)
            assert b"200" not in got[1:], (offer, body, got)
            assert len(got) == 1 or got[1:] == [b"404"], (offer, body, got)


def test_what_follows_a_request_that_offers_to_upgrade_is_the_next(doorman: httpx.Client) -> None:
    first = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % OFFERS[0]
    assert answers(doorman, first + INNER + LAST) == [b"200", b"200", b"404"]


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_a_request_of_unclear_extent_is_refused_and_nothing_of_it_is_the_next(
    doorman: httpx.Client, kind: str
) -> None:
    got = answers(
        doorman, b"POST /segment HTTP/1.1\r\nHost: localhost\r\n" + AMBIGUOUS[kind] + LAST
    )
    assert set(got) == {b"400"}


@pytest.mark.parametrize(
    "line", [b"GET /livez HTTP/2.0", b"GET /livez HTTP/1.2", b"GET /livez", b"CONNECT a:1 HTTP/1.1"]
)
def test_other_versions_and_tunnels_are_refused(doorman: httpx.Client, line: bytes) -> None:
    assert answers(doorman, line + b"\r\nHost: localhost\r\n\r\n") == [b"400"]
