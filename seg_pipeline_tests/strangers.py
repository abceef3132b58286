"""Servers that hold whoever asks them, for tests of what is bounded."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Manner = Callable[[socket.socket, threading.Event], None]
_HEAD = b'HTTP/1.1 200 OK\r\nETag: "a"\r\nLast-Modified: Fri, 02 Jan 2026 12:01:00 GMT\r\n'


def silent(_: socket.socket, over: threading.Event) -> None:
    """Takes the request and says nothing."""
    over.wait(60)


def trickling_head(wire: socket.socket, over: threading.Event) -> None:
    """Sends one header after the other, for ever."""
    wire.sendall(b"HTTP/1.1 200 OK\r\n")
    while not over.wait(0.1):
        wire.sendall(b"x-slow: 1\r\n")


def trickling_body(wire: socket.socket, over: threading.Event) -> None:
    """Sends a byte of its body now and then."""
    wire.sendall(
        _HEAD + b"Content-Type: application/x-amz-json-1.0\r\nContent-Length: 100000\r\n\r\n"
    )
    while not over.wait(0.1):
        wire.sendall(b" ")


MANNERS = (silent, trickling_head, trickling_body)


@contextmanager
def stranger(manner: Manner) -> Iterator[str]:
    """The address of such a server on a free port of 127.0.0.1 while the block runs."""
    over = threading.Event()

    def talk(wire: socket.socket) -> None:
        with wire, suppress(OSError):
            wire.recv(65_536)
            manner(wire, over)

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while not over.is_set():
                wire, _ = listener.accept()
                threading.Thread(target=talk, args=(wire,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
