"""Where alerts go, in a thread."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from seg_pipeline_tests.serving import http_server


@dataclass
class Webhook:
    """Its address, the texts that it got, and how it answers."""

    url: str = ""
    texts: list[str] = field(default_factory=list)
    status: int = 200
    hangs_seconds: float = 0


@contextmanager
def webhook() -> Iterator[Webhook]:
    """A webhook on a free port of 127.0.0.1 while the block runs."""
    double = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            double.texts.append(
                json.loads(self.rfile.read(int(self.headers["content-length"])))["text"]
            )
            time.sleep(double.hangs_seconds)
            self.send_response(double.status)
            self.send_header("location", double.url)
            self.end_headers()

    with http_server(Handler) as port:
        double.url = f"http://127.0.0.1:{port}/services/secret"
        yield double
