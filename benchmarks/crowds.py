"""Clients that mean harm, or are only many, over bare sockets of this machine."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

SECONDS = 300.0
"""Nobody waits longer than this for an answer."""

SILENT = b""
HALF_A_HEAD = b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Le"
HALF_A_BODY = b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + bytes(100)

Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Answer:
    """What came back for one upload; status 0 if nothing did."""

    uuid: str
    status: int
    retry_after: str | None = None
    code: str | None = None

    @property
    def is_accepted(self) -> bool:
        """Whether the service said that it has the job."""
        return self.status in (200, 202)

    @property
    def is_polite_refusal(self) -> bool:
        """Whether it was refused with a time to come again and a word that says why."""
        return (
            self.status in (429, 503)
            and self.code is not None
            and (self.retry_after or "").isdecimal()
        )


async def upload_at_once(url: str, uuids: Sequence[str], body: bytes) -> list[Answer]:
    """One upload each, a connection each, all at the same time."""
    return [*await asyncio.gather(*(_upload(url, uuid, body) for uuid in uuids))]


@asynccontextmanager
async def holding(
    url: str, count: int, beginning: bytes, drip: bytes = b""
) -> AsyncIterator[list[Wire]]:
    """Keeps so many connections that began like this and go no further, but for a drip each
    second."""
    wires = [*await asyncio.gather(*(_begun(url, beginning) for _ in range(count)))]
    dripping = asyncio.create_task(_drip(wires, drip))
    try:
        yield wires
    finally:
        dripping.cancel()
        for _, writer in wires:
            writer.close()


async def ask(url: str, path: str) -> int:
    """The status of a GET on a connection of its own."""
    return (
        await _exchange(
            url, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode(), b""
        )
    )[0]


def outcomes(answers: Sequence[Answer]) -> Counter[str]:
    """How many were accepted, told to come again, told why not at all, or failed."""
    return Counter(map(_outcome, answers))


def _outcome(answer: Answer) -> str:
    if answer.is_accepted:
        return "accepted"
    if answer.is_polite_refusal:
        return "told to come again"
    return (
        f"refused with {answer.status}"
        if answer.code and answer.status < 500
        else f"failed ({answer.status})"
    )


async def _upload(url: str, uuid: str, body: bytes) -> Answer:
    head = (
        f"POST /segment?uuid={uuid} HTTP/1.1\r\nHost: x\r\nPrefer: respond-async\r\nConnection:"
        f" close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    status, headers, document = await _exchange(url, head.encode(), body)
    return Answer(uuid, status, headers.get("retry-after"), document.get("code"))


async def _exchange(
    url: str, head: bytes, body: bytes
) -> tuple[int, dict[str, str], dict[str, str]]:
    try:
        async with asyncio.timeout(SECONDS):
            reader, writer = await _begun(url, head)
            try:
                with suppress(ConnectionError):  # the answer may be there all the same
                    writer.write(body)
                    await writer.drain()
                return _parsed(await reader.read())
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return 0, {}, {}


def _parsed(answer: bytes) -> tuple[int, dict[str, str], dict[str, str]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    if not first:
        return 0, {}, {}
    fields = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    with suppress(ValueError):
        document = json.loads(body)
        return int(first.split(" ")[1]), headers, document if isinstance(document, dict) else {}
    return int(first.split(" ")[1]), headers, {}


async def _begun(url: str, beginning: bytes) -> Wire:
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(beginning)
    with suppress(ConnectionError):
        await writer.drain()
    return reader, writer


async def _drip(wires: Sequence[Wire], drip: bytes) -> None:
    while drip:
        await asyncio.sleep(1)
        for _, writer in wires:
            if not writer.is_closing():
                writer.write(drip)
