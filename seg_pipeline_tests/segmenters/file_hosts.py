"""A server of one checkpoint that breaks connections on demand, as those of real ones do."""

import hashlib
import io
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from seg_pipeline.segmenters.weights.locate import find_weights
from seg_pipeline.settings import Settings
from seg_pipeline_tests.given_settings import GivenSettings
from seg_pipeline_tests.serving import http_server

NAME = "yolov8n-seg"


def make_checkpoint(size: int = 3_000_000, seed: int = 0) -> bytes:
    """A zip file as torch writes them, of about this size; the same bytes whenever it is made."""
    file, undated = io.BytesIO(), zipfile.ZipInfo("archive/data.pkl")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(undated, hashlib.shake_256(bytes([seed])).digest(size))
    return file.getvalue()


class FileHost:
    """What the server gives, how it fails, and what it was asked for."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.etag = '"first"'
        self.statuses: list[int] = []
        """Answered in turn before anything else."""
        self.break_after: list[int] = []
        """The connection is cut after so many bytes of the body, in turn."""
        self.trickles = False
        """A thousand bytes come, then a pause, and so on."""
        self.ranges: list[str | None] = []
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.ranges.append(handler.headers["Range"])
        if self.statuses:
            handler.send_error(self.statuses.pop(0))
            return
        start = self._start(handler)
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(self.body) - start))
        handler.send_header("ETag", self.etag)
        handler.end_headers()
        rest = self.body[start:]
        self._send(handler, rest[: self.break_after.pop(0)] if self.break_after else rest)

    def _send(self, handler: BaseHTTPRequestHandler, data: bytes) -> None:
        piece = 1000 if self.trickles else max(1, len(data))
        with suppress(ConnectionError):  # who has enough of it hangs up
            for start in range(0, len(data), piece):
                handler.wfile.write(data[start : start + piece])
                time.sleep(0.01 if self.trickles else 0)

    def _start(self, handler: BaseHTTPRequestHandler) -> int:
        asked = handler.headers["Range"]
        return int(asked[6:-1]) if asked and handler.headers["If-Range"] == self.etag else 0


@contextmanager
def serving(body: bytes) -> Iterator[FileHost]:
    """A host of this body on a free port of 127.0.0.1 while the block runs."""
    host = FileHost(body)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host.answer(self)

    with http_server(Handler) as port:
        host.url = f"http://127.0.0.1:{port}/{NAME}.pt"
        yield host


def make_settings(folder: Path, **values: Any) -> Settings:
    """Settings with a folder for weights that does not exist yet."""
    return GivenSettings(weights_dir=folder / "weights", **values)


def fetch(host: FileHost, settings: Settings) -> Path:
    """The weights of `NAME`, downloaded from this host."""
    return find_weights(NAME, settings, url_of=lambda _name: host.url)


def leftovers(settings: Settings) -> set[str]:
    """What lies in the folder of the weights, but for the lock."""
    return {path.name for path in settings.weights_dir.iterdir()} - {f"{NAME}.pt.lock"}
