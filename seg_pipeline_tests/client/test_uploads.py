"""Files that are sent: in pieces, whole at each attempt."""

import asyncio
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from seg_client import AsyncClient, Client
from seg_client.errors import PictureUnreadable
from seg_client.uploads import pieces, size_of
from seg_pipeline_tests.serving import http_server

SIZE = 48 * 2**20


@contextmanager
def busy_once() -> Iterator[tuple[str, list[int]]]:
    """A service that refuses the first batch in passing; it counts the bytes of each request."""
    sizes: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            left = int(self.headers["content-length"])
            sizes.append(0)
            while left and (piece := self.rfile.read(min(left, 2**16))):
                sizes[-1] += len(piece)
                left -= len(piece)
            body = b'{"uuid": "summer"}' if len(sizes) > 1 else b""
            self.send_response(202 if body else 503)
            self.send_header("retry-after", "0")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with http_server(Handler) as port:
        yield f"http://127.0.0.1:{port}", sizes


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.zip"
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


@pytest.mark.parametrize("awaits", [False, True])
def test_a_large_zip_is_sent_whole_at_each_attempt_and_never_held_in_memory(
    large: Path, awaits: bool
) -> None:
    async def send_later(url: str) -> str:
        async with AsyncClient(url) as client:
            return (await client.batches.create(large)).uuid

    def send(url: str) -> str:
        with Client(url) as client:
            return client.batches.create(large).uuid

    with busy_once() as (url, sizes):
        tracemalloc.start()
        uuid = asyncio.run(send_later(url)) if awaits else send(url)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (uuid, sizes) == ("summer", [SIZE, SIZE])
    assert peak < SIZE / 4


def test_a_file_that_is_not_there_is_an_error_of_the_client(tmp_path: Path) -> None:
    with pytest.raises(PictureUnreadable, match="No such file"):
        size_of(tmp_path / "a.zip")
    with pytest.raises(PictureUnreadable, match="Is a directory"):
        size_of(tmp_path)
    with Client("http://127.0.0.1:9") as client, pytest.raises(PictureUnreadable):
        client.batches.create(tmp_path / "a.zip")


def test_bytes_at_hand_are_sent_as_they_are() -> None:
    assert pieces(b"picture") == b"picture"
    assert pieces(None) is None
