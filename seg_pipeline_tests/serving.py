"""Real HTTP servers in a thread, for tests of what talks to one."""

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server

WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]


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


@contextmanager
def wire_server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """Does with each connection what it is told, in a thread of its own, while the block runs;
    gives its URL."""

    def serve(wire: socket.socket) -> None:
        with wire, suppress(OSError):
            talk(wire)

    with socket.create_server(("127.0.0.1", 0), backlog=512) as server:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    wire, _ = server.accept()
                    Thread(target=serve, args=(wire,), daemon=True).start()

        Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def hang(wire: socket.socket) -> None:
    """Reads, and says nothing."""
    while wire.recv(65536):
        pass


def trickle(wire: socket.socket) -> None:
    """Begins an answer, and sends a byte now and then, for ever."""
    wire.recv(65536)
    wire.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        wire.sendall(b"x")
        time.sleep(0.5)
