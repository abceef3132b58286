"""Real HTTP servers in a thread, for tests of what talks to one: `serving` for an application,
`http_server` for answers written by hand, and `wire_server` for what is no answer."""

import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server

WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]
Talk = Callable[[socket.socket], None]


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        pass


@contextmanager
def serving(app: WsgiApp) -> Iterator[str]:
    """Serves the WSGI application on a free port of 127.0.0.1 while the block runs; gives its
    URL."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may hang up; everything else is a mistake of the test, and printed."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


@contextmanager
def http_server(
    handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None
) -> Iterator[int]:
    """Serves on a free port of 127.0.0.1 while the block runs, each connection in a thread of its
    own; gives the port. No line is printed for a request."""
    quiet = type("Quiet", (handler,), {"log_message": lambda *_: None})
    server = _Server(("127.0.0.1", 0), quiet)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def wire_server(talk: Talk) -> Iterator[str]:
    """Does with each connection what it is told, in a thread of its own, while the block runs, and
    cuts those that are left; gives its URL."""
    wires: list[socket.socket] = []

    def serve(wire: socket.socket) -> None:
        with wire, suppress(OSError):
            talk(wire)

    with socket.create_server(("127.0.0.1", 0), backlog=512) as server:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    wire, _ = server.accept()
                    wires.append(wire)
                    Thread(target=serve, args=(wire,), daemon=True).start()

        Thread(target=accept, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            for each in (server, *wires):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)


def hang(wire: socket.socket) -> None:
    """Reads, and says nothing."""
    while wire.recv(65536):
        pass


def trickle_head(wire: socket.socket) -> None:
    """Sends one header after the other, for ever."""
    _drip(wire, b"HTTP/1.1 200 OK\r\n", b"x-slow: 1\r\n")


def trickle_body(wire: socket.socket) -> None:
    """Sends a whole head as S3 and SQS do, then a byte of its body now and then, for ever."""
    head = (
        b'HTTP/1.1 200 OK\r\nETag: "a"\r\nLast-Modified: Fri, 02 Jan 2026 12:01:00 GMT\r\n'
        b"Content-Type: application/x-amz-json-1.0\r\nContent-Length: 100000\r\n\r\n"
    )
    _drip(wire, head, b" ")


def trickle(wire: socket.socket) -> None:
    """Begins an answer, and sends a byte now and then, for ever."""
    _drip(wire, b"HTTP/1.1 200 OK\r\n\r\n", b"x", pause_seconds=0.5)


def _drip(wire: socket.socket, head: bytes, piece: bytes, pause_seconds: float = 0.1) -> None:
    wire.recv(65536)
    wire.sendall(head)
    while True:
        wire.sendall(piece)
        time.sleep(pause_seconds)


HOLDING = (hang, trickle_head, trickle_body)
"""How a server holds whoever asks it."""
