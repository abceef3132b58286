"""An app server in a thread, with good and bad days, for tests of what it is told."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from seg_pipeline_tests.serving import http_server


@dataclass(frozen=True)
class Told:
    """A PATCH that arrived, by which connection; header names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def uuid(self) -> str:
        """The job it is about, as the path says."""
        return self.path.rpartition("/")[2]

    @property
    def document(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


Answer = Callable[[BaseHTTPRequestHandler, "AppServerDouble"], None]


@dataclass
class AppServerDouble:
    """Its address, what it was told, and how it answers: in turn, the last answer for ever."""

    url: str = ""
    told: list[Told] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def uuids(self) -> list[str]:
        """Whom it was told about, in the order of arrival."""
        return [told.uuid for told in self.told]

    def note(self, handler: BaseHTTPRequestHandler) -> Answer:
        """Keeps the request; the answer that it gets."""
        body = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        with self.lock:
            self.told.append(Told(handler.path, headers, body, handler.client_address[1]))
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Knows how many requests are answered at once."""
        with self.lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            yield
        finally:
            with self.lock:
                self.at_once -= 1


def say(status: int = 200, body: bytes = b"{}", **headers: str) -> Answer:
    """A status and a body."""

    def answer(handler: BaseHTTPRequestHandler, _: AppServerDouble) -> None:
        handler.send_response(status)
        handler.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def hang(handler: BaseHTTPRequestHandler, server: AppServerDouble) -> None:
    """No answer at all, until the test is over."""
    server.over.wait(60)
    handler.close_connection = True


def hang_up(handler: BaseHTTPRequestHandler, _: AppServerDouble) -> None:
    """The connection ends without an answer."""
    handler.close_connection = True


def drip(head: bytes, piece: bytes) -> Answer:
    """Sends `head`, then `piece` every now and then, well within any limit for a single read."""

    def answer(handler: BaseHTTPRequestHandler, server: AppServerDouble) -> None:
        handler.close_connection = True
        handler.wfile.write(head)
        while not server.over.wait(0.02):
            handler.wfile.write(piece)
            handler.wfile.flush()

    return answer


@contextmanager
def app_server(*answers: Answer) -> Iterator[AppServerDouble]:
    """A server on a free port of 127.0.0.1 while the block runs; it says 200 unless told
    otherwise."""
    double = AppServerDouble(answers=list(answers) or [say()])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PATCH(self) -> None:
            with double.counted():
                double.note(self)(self, double)

        def do_POST(self) -> None:  # as a webhook gets it
            self.do_PATCH()

    with http_server(Handler) as port:
        double.url = f"http://127.0.0.1:{port}"
        try:
            yield double
        finally:
            double.over.set()
