"""Uvicorn's parser for a server that keeps to HTTP/1.1, whatever protocol a client offers.

httptools ends a request at an offer to upgrade, and takes its body for the other protocol's bytes.
If nobody switches, it reads these as the next request. Behind a proxy that passes `Upgrade` on,
that is request smuggling. A server that does not switch reads the request as if there were no offer
(RFC 9110, section 7.8).
"""

from typing import Protocol

import httptools

Header = tuple[bytes, bytes]

_OFFERS = (b"upgrade", b"http2-settings")
"""Headers that mean nothing without the switch. `Connection` names them too."""


class Receiver(Protocol):
    """Receives a request: the callbacks of httptools, each with a complete element."""

    def on_message_begin(self) -> None:
        """A request begins."""

    def on_url(self, url: bytes) -> None:
        """Its target."""

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its headers."""

    def on_headers_complete(self) -> None:
        """Its head is complete."""

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""

    def on_message_complete(self) -> None:
        """Its body is complete."""


class PlainParser:
    """Reads requests of HTTP/1.0 and 1.1, in place of `httptools.HttpRequestParser`.

    It has the methods that uvicorn uses. The head of a request that offers another protocol is read
    a second time, without the offer. Trailers are dropped: nothing after a body may become a header
    of its request.
    """

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._url = b""
        self._headers: list[Header] = []
        self._in_head = False
        self._parser = self._new_parser()

    def feed_data(self, data: bytes) -> None:
        """Reads on. Raises httptools.HttpParserError for an invalid request."""
        while True:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
                self._read_head_again()

    def get_method(self) -> bytes:
        """The method of the request whose head is complete."""
        return bytes(self._parser.get_method())

    def get_http_version(self) -> str:
        """`1.1` or `1.0`."""
        return str(self._parser.get_http_version())

    def should_keep_alive(self) -> bool:
        """Whether another request may follow on the connection."""
        return bool(self._parser.should_keep_alive())

    def should_upgrade(self) -> bool:
        """Never upgrades."""
        return False

    def on_message_begin(self) -> None:
        """Called by httptools, as the following methods are."""
        is_second_reading, self._in_head = self._in_head, True
        self._url, self._headers = b"", []
        if not is_second_reading:
            self._receiver.on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        if self._in_head:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Passes the head to the receiver, unless it is to be read again."""
        self._check()
        if self._parser.should_upgrade():
            return
        self._in_head = False
        self._receiver.on_url(self._url)
        for name, value in self._headers:
            self._receiver.on_header(name, value)
        self._receiver.on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._receiver.on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request. The end of a first reading is ignored."""
        if not self._in_head:
            self._receiver.on_message_complete()

    def _check(self) -> None:
        if self.get_http_version() not in ("1.0", "1.1"):
            raise httptools.HttpParserError("HTTP/1.0 and HTTP/1.1 are understood here")
        if self.get_method() == b"CONNECT":
            raise httptools.HttpParserError("CONNECT is for proxies")

    def _read_head_again(self) -> None:
        version = self.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.get_method(), self._url, version)]
        lines += [b"%s: %s" % header for header in _without_offers(self._headers)]
        self._parser = self._new_parser()
        self._parser.feed_data(b"\r\n".join(lines) + b"\r\n\r\n")

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # As in uvicorn: a request is answered even if more follows after its `close`.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser


def _without_offers(headers: list[Header]) -> list[Header]:
    kept = [(name, value) for name, value in headers if name.lower() not in _OFFERS]
    return [
        (name, _other_tokens(value)) if name.lower() == b"connection" else (name, value)
        for name, value in kept
    ]


def _other_tokens(connection: bytes) -> bytes:
    tokens = [token.strip() for token in connection.split(b",")]
    return b", ".join(token for token in tokens if token.lower() not in _OFFERS)
