"""Events on their way to listeners: heartbeats, those that do not read, and those that go."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from api import event_stream
from api.event_stream import EventStream
from api.events import JobState, Listener

END = JobState("end-1", {"status": "completed"}, is_last=True)


class Client:
    """What an ASGI server does for one client: keeps what is sent, and says when it goes."""

    def __init__(self, reads: bool = True) -> None:
        self.sent: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self.hung_up: list[str] = []
        self._reads = reads

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if not self._reads:
            await asyncio.sleep(3600)

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    def hang_up(self, reason: str) -> None:
        self.hung_up.append(reason)

    def limit_buffers(self, size: int) -> None:
        self.buffer_bytes = size

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


async def serve(
    client: Client, *states: JobState, last_id: str = "", closes: bool = False
) -> list[str]:
    """Serves the states to the client; gives what became of the listener's turn."""
    over: list[str] = []
    listener = Listener()
    stack = AsyncExitStack()
    stack.callback(over.append, "given back")
    scope = {"type": "http", "state": {"connection": client}}
    serving = asyncio.create_task(
        EventStream(listener, stack, last_id)(scope, client.receive, client.send)
    )
    for state in states:
        listener.put(state)
        await asyncio.sleep(0.01)
    if closes:
        client.gone.set()
    await asyncio.wait_for(serving, 20)
    return over


def test_the_stream_ends_with_the_job() -> None:
    async def run() -> None:
        client = Client()
        assert await serve(client, JobState("a", {}), END) == ["given back"]
        head = dict(client.sent[0]["headers"])
        assert head[b"content-type"].startswith(b"text/event-stream")
        assert b"content-length" not in head
        assert client.body.startswith(b"retry: 1000\n\nid: a\n")
        assert client.body.endswith(END.encoded())
        assert client.sent[-1]["more_body"] is False

    asyncio.run(run())


def test_a_state_that_the_client_has_is_not_sent_again() -> None:
    async def run() -> None:
        client = Client()
        await serve(client, JobState("a", {}), END, last_id="a")
        assert b"id: a\n" not in client.body
        assert END.encoded() in client.body

    asyncio.run(run())


def test_a_silent_job_has_a_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_SECONDS", 0.01)

    async def run() -> None:
        client = Client()
        serving = asyncio.create_task(serve(client, closes=False))
        while client.body.count(b": still here\n\n") < 3:
            await asyncio.sleep(0.01)
        client.gone.set()
        assert await serving == ["given back"]

    asyncio.run(run())


def test_a_listener_that_reads_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "SEND_SECONDS", 0.05)

    async def run() -> None:
        client = Client()
        client._reads = True
        states = [JobState(str(number), {}) for number in range(3)]
        serving = asyncio.create_task(serve(client, *states))
        await asyncio.sleep(0.02)
        client._reads = False
        assert await serving == ["given back"]
        assert client.hung_up == ["it does not read its events"]
        assert client.buffer_bytes == event_stream.BUFFER_BYTES

    asyncio.run(run())


def test_a_client_that_goes_gives_its_turn_back() -> None:
    async def run() -> None:
        assert await serve(Client(), JobState("a", {}), closes=True) == ["given back"]

    asyncio.run(run())
