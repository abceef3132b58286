"""Where alerts go, in a thread."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


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

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    double.url = f"http://127.0.0.1:{server.server_port}/services/secret"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield double
    finally:
        server.shutdown()
        server.server_close()
