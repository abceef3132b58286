"""Sixty odd answers of picture hosts, and what becomes of them here and with curl.

Where curl takes an answer and this service does not, or the other way round, the table says why.
Bytes go over a real socket exactly as they stand.
"""

import asyncio
import gzip
import shutil
import socket
import subprocess
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest

from seg_pipeline.adapters.image_fetch import FetchLimits, fetch_image
from seg_pipeline.adapters.public_network import PublicNetwork, Resolver
from seg_pipeline.errors import FetchError, FetchUnavailable
from seg_pipeline.settings import Settings
from seg_pipeline_tests.serving import hang, wire_server

PICTURE = bytes(range(256)) * 40
TAKEN, REFUSED, LATER = "taken", "refused", "later"
"""The picture is there; it never will be; another try may bring it."""


def answer(body: bytes, *fields: bytes, status: bytes = b"200 OK") -> bytes:
    lines = b"".join(field + b"\r\n" for field in fields)
    return (
        b"HTTP/1.1 " + status + b"\r\n" + lines + b"Content-Length: %d\r\n\r\n" % len(body) + body
    )


def encoded(name: bytes, body: bytes) -> bytes:
    return answer(body, b"Content-Encoding: " + name)


def redirect(place: bytes, status: bytes = b"302 Found") -> bytes:
    return answer(b"", b"Location: " + place, status=status)


def partial(body: bytes) -> bytes:
    return answer(
        body,
        b"Content-Range: bytes 0-%d/%d" % (len(body) - 1, len(PICTURE)),
        status=b"206 Partial Content",
    )


def chunked(body: bytes, size: int = 4096, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    pieces = (body[start : start + size] for start in range(0, len(body), size))
    chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    return chunks + b"0\r\n" + trailer + b"\r\n"


CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH = len(PICTURE)

ANSWERS = [
    ("plain", answer(PICTURE), TAKEN),
    ("no length, ended by closing", b"HTTP/1.1 200 OK\r\n\r\n" + PICTURE, TAKEN),
    ("HTTP/1.0", b"HTTP/1.0 200 OK\r\n\r\n" + PICTURE, TAKEN),
    ("no reason phrase", b"HTTP/1.1 200\r\n\r\n" + PICTURE, TAKEN),
    ("empty reason phrase", b"HTTP/1.1 200 \r\n\r\n" + PICTURE, TAKEN),
    ("bare line feeds", b"HTTP/1.1 200 OK\nContent-Length: %d\n\n" % len(PICTURE) + PICTURE, TAKEN),
    ("a page's type", answer(PICTURE, b"Content-Type: text/html"), TAKEN),
    ("no type", answer(PICTURE, b"Content-Type:"), TAKEN),
    (
        "sent as a download",
        answer(PICTURE, b"Content-Disposition: attachment; filename=a.png"),
        TAKEN,
    ),
    (
        "a name in Latin-1",
        answer(PICTURE, b"Content-Disposition: inline; filename=b\xfcro.png"),
        TAKEN,
    ),
    ("50 KB of cookies", answer(PICTURE, *[b"Set-Cookie: a=" + b"x" * 1000] * 50), TAKEN),
    ("200 fields", answer(PICTURE, *[b"X-Field: x"] * 200), TAKEN),
    ("the length twice", answer(PICTURE, b"Content-Length: %d" % len(PICTURE)), TAKEN),
    (
        "the length as a list",
        b"HTTP/1.1 200 OK\r\nContent-Length: %d, %d\r\n\r\n" % (LENGTH, LENGTH) + PICTURE,
        TAKEN,
    ),
    ("two different lengths", answer(PICTURE, b"Content-Length: 7"), LATER),
    ("a length that is none", b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n" + PICTURE, LATER),
    ("a negative length", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n" + PICTURE, LATER),
    ("more than the length", answer(PICTURE) + b"and more", TAKEN),
    ("less than the length", answer(PICTURE)[:-9], LATER),
    ("early hints", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answer(PICTURE), TAKEN),
    ("continue", b"HTTP/1.1 100 Continue\r\n\r\n" + answer(PICTURE), TAKEN),
    ("processing, twice", b"HTTP/1.1 102 Processing\r\n\r\n" * 2 + answer(PICTURE), TAKEN),
    ("changed by a proxy", answer(PICTURE, status=b"203 Non-Authoritative Information"), TAKEN),
    ("created", answer(PICTURE, status=b"201 Created"), TAKEN),
    ("accepted", answer(PICTURE, status=b"202 Accepted"), LATER),
    ("no content", b"HTTP/1.1 204 No Content\r\n\r\n", REFUSED),
    ("a part that nobody asked for", partial(PICTURE[:99]), REFUSED),
    ("a part that is all", partial(PICTURE), TAKEN),
    ("a choice with one preferred", redirect(b"/plain", b"300 Multiple Choices"), TAKEN),
    ("a choice", answer(b"", status=b"300 Multiple Choices"), REFUSED),
    ("not modified", b"HTTP/1.1 304 Not Modified\r\n\r\n", REFUSED),
    ("unknown status of success", answer(PICTURE, status=b"299 Fine"), TAKEN),
    ("gone", answer(PICTURE, status=b"410 Gone"), REFUSED),
    ("a teapot", answer(PICTURE, status=b"418 I'm a teapot"), REFUSED),
    (
        "too many requests",
        answer(PICTURE, b"Retry-After: 1", status=b"429 Too Many Requests"),
        LATER,
    ),
    ("unavailable", answer(PICTURE, status=b"503 Service Unavailable"), LATER),
    ("a proxy's own status", answer(PICTURE, status=b"520 Unknown"), LATER),
    ("chunked", CHUNKED_HEAD + chunked(PICTURE), TAKEN),
    ("small chunks", CHUNKED_HEAD + chunked(PICTURE, 7), TAKEN),
    ("chunks with extensions", CHUNKED_HEAD + chunked(PICTURE, extension=b";a=b"), TAKEN),
    ("chunks with trailers", CHUNKED_HEAD + chunked(PICTURE, trailer=b"X-Sum: 1\r\n"), TAKEN),
    ("chunks without their end", CHUNKED_HEAD + chunked(PICTURE)[:-5], LATER),
    ("chunks of no size", CHUNKED_HEAD + b"zz\r\n" + PICTURE, LATER),
    (
        "chunked and a length",
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n" + CHUNKED_HEAD[17:] + chunked(PICTURE),
        TAKEN,
    ),
    ("gzip", encoded(b"gzip", gzip.compress(PICTURE)), TAKEN),
    ("x-gzip in capitals", encoded(b"X-GZIP", gzip.compress(PICTURE)), TAKEN),
    (
        "gzip in two members",
        encoded(b"gzip", gzip.compress(PICTURE[:99]) + gzip.compress(PICTURE[99:])),
        TAKEN,
    ),
    ("gzip and zeros after it", encoded(b"gzip", gzip.compress(PICTURE) + bytes(512)), TAKEN),
    ("gzip without its end", encoded(b"gzip", gzip.compress(PICTURE)[:-9]), LATER),
    ("gzip that is none", encoded(b"gzip", PICTURE), REFUSED),
    ("gzip twice", encoded(b"gzip, gzip", gzip.compress(gzip.compress(PICTURE))), TAKEN),
    ("deflate with a head", encoded(b"deflate", zlib.compress(PICTURE)), TAKEN),
    ("deflate without a head", encoded(b"deflate", zlib.compress(PICTURE)[2:-4]), TAKEN),
    ("identity", encoded(b"identity", PICTURE), TAKEN),
    ("no encoding", encoded(b"", PICTURE), TAKEN),
    ("an encoding named none", encoded(b"none", PICTURE), TAKEN),
    ("a charset as encoding", encoded(b"utf-8", PICTURE), TAKEN),
    ("aws-chunked", encoded(b"aws-chunked", PICTURE), TAKEN),
    ("aws-chunked and gzip", encoded(b"aws-chunked,gzip", gzip.compress(PICTURE)), TAKEN),
    ("brotli that nobody asked for", encoded(b"br", PICTURE), REFUSED),
    ("a redirect to a relative place", redirect(b"plain"), TAKEN),
    ("a redirect with a fragment", redirect(b"/plain#top"), TAKEN),
    ("a redirect with a space", redirect(b"/a picture"), TAKEN),
    ("a redirect in UTF-8", redirect("/bücher".encode()), TAKEN),
    ("a redirect to nowhere", answer(b"", status=b"302 Found"), REFUSED),
    ("a redirect to itself", redirect(b"/a-redirect-to-itself"), REFUSED),
    ("a redirect to a file", redirect(b"file:///etc/passwd"), REFUSED),
    ("a redirect with status 308", redirect(b"/plain", b"308 Permanent Redirect"), TAKEN),
    ("another protocol", b"SSH-2.0-OpenSSH_9.9\r\n", LATER),
    ("HTTP/0.9", PICTURE, LATER),
    ("nothing at all", b"", LATER),
    ("a head without its end", b"HTTP/1.1 200 OK\r\nContent-Le", LATER),
]

CURL_DIFFERS = {
    "two different lengths": (
        "curl believes the last; whoever cuts an answer in two would be believed too"
    ),
    "accepted": "the picture is yet to be made, says RFC 9110",
    "gzip in two members": "curl reads the first; RFC 1952 and browsers read all",
    "gzip and zeros after it": "curl stops; gzip itself passes over them",
    "gzip without its end": "curl does not miss the checksum; half a picture could look like that",
    "a charset as encoding": "curl stops at a word that it does not know; browsers take the bytes",
    "aws-chunked": "the same; S3-compatible stores send it with whole objects",
    "aws-chunked and gzip": "the same",
}
"""Where curl has another opinion, and why this service keeps its own."""


def path_of(name: str) -> str:
    return "/" + "".join(letter if letter.isalnum() else "-" for letter in name)


PLACES = {"/a picture": answer(PICTURE), "/bücher": answer(PICTURE)}


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    """Gives exactly the bytes of the table, by path."""
    routes = {**PLACES, **{path_of(name): said for name, said, _ in ANSWERS}}

    def serve(wire: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += wire.recv(65536) or b"\r\n\r\n"
        path = unquote_to_bytes(head.split(b" ")[1]).decode()
        wire.sendall(routes.get(path, b"HTTP/1.1 404 Not Found\r\n\r\n"))
        wire.shutdown(socket.SHUT_WR)
        wire.settimeout(5)
        hang(wire)

    with wire_server(serve) as url:
        yield url


def outcome(url: str) -> str:
    """What this service makes of it."""
    settings = Settings(_env_file=None, allow_private_urls=True)
    body, network = BytesIO(), PublicNetwork(Resolver(), allow_private=True)
    try:
        asyncio.run(fetch_image(url, body, settings, network, FetchLimits(total_seconds=30)))
    except FetchUnavailable:
        return LATER
    except FetchError:
        return REFUSED
    assert body.getvalue() == PICTURE
    return TAKEN


@pytest.mark.parametrize(("name", "expected"), [(name, expected) for name, _, expected in ANSWERS])
def test_an_odd_answer_is(name: str, expected: str, host: str) -> None:
    assert outcome(host + path_of(name)) == expected


def curl_takes(url: str, folder: Path) -> bool:
    """Whether curl, told to follow redirects and to undo encodings, has the picture in the end."""
    file = folder / "body"
    command = ["curl", "--silent", "--fail", "--location", "--max-redirs", "5", "--compressed",
               "--noproxy", "*",
               "--proto-redir", "=http,https", "--max-time", "30", "--output", str(file),
               url]  # fmt: skip
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL)
    return done.returncode == 0 and file.exists() and file.read_bytes() == PICTURE


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize(("name", "expected"), [(name, expected) for name, _, expected in ANSWERS])
def test_curl_agrees_or_the_table_says_why_not(
    name: str, expected: str, host: str, tmp_path: Path
) -> None:
    assert (curl_takes(host + path_of(name), tmp_path) != (expected == TAKEN)) == (
        name in CURL_DIFFERS
    )
