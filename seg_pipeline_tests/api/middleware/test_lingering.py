"""An answer before the body's end is seen by the client, and the rest of its body is bounded."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from api import read_turns
from api.middleware import lingering
from api.middleware.lingering import LingeringClose


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_turns, "TURN_SECONDS", 0.001)
    monkeypatch.setattr(lingering, "LINGER_SILENT_SECONDS", 0.01)


def pieces(*bodies: bytes) -> list[Message]:
    """A body in pieces, of which the last is its end."""
    return [
        {"type": "http.request", "body": body, "more_body": index < len(bodies) - 1}
        for index, body in enumerate(bodies)
    ]


class Exchange:
    """One request to an app that reads so many pieces and then answers."""

    def __init__(
        self, incoming: Sequence[Message], reads: int = 0, status: int = 413, **headers: str
    ) -> None:
        self.incoming, self.reads, self.status = list(incoming), reads, status
        self.sent: list[Message] = []
        names = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
        self.scope: Scope = {"type": "http", "headers": names}

    def run(self) -> "Exchange":
        asyncio.run(LingeringClose(self._app)(self.scope, self._receive, self._send))
        return self

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(self.reads):
            await receive()
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})

    async def _receive(self) -> Message:
        if not self.incoming:
            await asyncio.Event().wait()
        return self.incoming.pop(0)

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def closes(self) -> bool:
        return (b"connection", b"close") in self.sent[0]["headers"]

    @property
    def bodies(self) -> list[tuple[Any, bool]]:
        return [(each["body"], each.get("more_body", False)) for each in self.sent[1:]]


def test_an_answer_to_a_whole_body_goes_out_as_it_is() -> None:
    done = Exchange(pieces(b"ab", b"c"), reads=2, content_length="3").run()
    assert not done.closes
    assert done.bodies == [(b"no", False)]


def test_an_answer_to_no_body_goes_out_as_it_is() -> None:
    for done in (Exchange([]).run(), Exchange([], content_length="0").run()):
        assert not done.closes
        assert done.bodies == [(b"no", False)]


def test_a_refused_body_is_thrown_away_behind_the_whole_answer() -> None:
    body = pieces(b"ab", b"c", b"d")
    for exchange in (
        Exchange(body, content_length="4"),
        Exchange(body, transfer_encoding="chunked"),
    ):
        done = exchange.run()
        assert done.closes
        assert done.bodies == [(b"no", True), (b"", False)]
        assert done.incoming == []


def test_no_more_is_thrown_away_than_was_announced() -> None:
    done = Exchange(pieces(*[b"xx"] * 10), content_length="4").run()
    assert len(done.incoming) == 8


def test_of_a_body_without_a_size_only_so_much_is_thrown_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lingering, "LINGER_BYTES", 4)
    done = Exchange(pieces(*[b"xx"] * 10), transfer_encoding="chunked").run()
    assert len(done.incoming) == 8


def test_a_client_that_has_gone_silent_is_not_waited_for() -> None:
    done = Exchange([], content_length="4").run()
    assert done.bodies == [(b"no", True), (b"", False)]


def test_a_client_that_has_stalled_is_cut_off_at_once() -> None:
    done = Exchange(pieces(b"ab", b"c"), status=408, content_length="3").run()
    assert done.closes
    assert done.bodies == [(b"no", False)]
    assert len(done.incoming) == 2


def test_a_client_that_waits_for_100_continue_is_not_told_to_send() -> None:
    """Asking for its body would send it `100 Continue` behind the answer."""
    done = Exchange(pieces(b"abc"), content_length="3", expect="100-Continue").run()
    assert done.closes
    assert len(done.incoming) == 1


def test_what_is_no_http_request_goes_through() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    done = Exchange([])
    asyncio.run(LingeringClose(app)({"type": "lifespan"}, done._receive, done._send))
    assert seen == [{"type": "lifespan"}]
