"""A request is one request, whatever protocol it offers and however it arrives."""

import httptools
import pytest

from api.http_parser import PlainParser

OFFERS = {
    "h2c": (
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIA\r\n"
    ),
    "websocket": (
        b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n"
    ),
    "two headers": b"Connection: keep-alive\r\nConnection: upgrade\r\nUpgrade: h2c, websocket\r\n",
    "none": b"",
}
INNER = b"GET /inner HTTP/1.1\r\nHost: x\r\n\r\n"
BODIES = {
    "length": b"Content-Length: %d\r\n\r\n%s" % (len(INNER), INNER),
    "chunked": (
        b"Transfer-Encoding: chunked\r\n\r\n%x;a=b\r\n%s\r\n0\r\nx-api-key: trailer\r\n\r\n"
        % (len(INNER), INNER)
    ),
}


class Received:
    """What a parser told: a line a request, with its headers' names and its body."""

    def __init__(self) -> None:
        self.requests: list[list[bytes]] = []
        self.heads = self.ends = 0

    def on_message_begin(self) -> None:
        self.requests.append([b"", b"", b""])

    def on_url(self, url: bytes) -> None:
        self.requests[-1][0] += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.requests[-1][1] += name.lower() + b" "

    def on_headers_complete(self) -> None:
        self.heads += 1

    def on_body(self, body: bytes) -> None:
        self.requests[-1][2] += body

    def on_message_complete(self) -> None:
        self.ends += 1


def received(data: bytes, step: int) -> Received:
    told = Received()
    parser = PlainParser(told)
    for start in range(0, len(data), step):
        parser.feed_data(data[start : start + step])
    return told


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("offer", OFFERS)
def test_a_body_is_a_body_whatever_protocol_is_offered(
    offer: str, body: str, version: bytes, step: int
) -> None:
    """Else a proxy that passes `Upgrade` on lets one client's body be another one's request."""
    request = b"POST /outer HTTP/%s\r\nHost: x\r\n%s%s" % (version, OFFERS[offer], BODIES[body])
    told = received(request * 2 if version == b"1.1" else request, step)
    assert [(url, data) for url, _, data in told.requests] == [(b"/outer", INNER)] * len(
        told.requests
    )
    assert told.heads == told.ends == len(told.requests) == (2 if version == b"1.1" else 1)
    for _, headers, _ in told.requests:
        assert b"host" in headers
        assert not {b"upgrade", b"http2-settings", b"x-api-key"} & set(headers.split())


def test_thousands_of_offers_in_one_piece_are_thousands_of_requests() -> None:
    told = received(b"GET / HTTP/1.1\r\n%s\r\n" % OFFERS["h2c"] * 5000, 10**7)
    assert told.ends == 5000


@pytest.mark.parametrize(
    "request_line",
    [b"GET / HTTP/2.0", b"GET / HTTP/0.9", b"GET /", b"CONNECT x:443 HTTP/1.1", b"PRI * HTTP/2.0"],
)
def test_other_versions_and_tunnels_are_no_requests_here(request_line: bytes) -> None:
    with pytest.raises(httptools.HttpParserError):
        received(request_line + b"\r\nHost: x\r\n\r\n", 1000)
