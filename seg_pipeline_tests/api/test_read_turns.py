"""Bodies take turns: no more at once than there are turns, and none keeps its turn for ever."""

import asyncio

import pytest
from starlette.types import Message

from api import read_turns
from api.read_turns import ReadTurns

MESSAGE: Message = {"type": "http.request", "body": b"x", "more_body": True}


class Connection:
    """Whether anybody has stopped its reading."""

    def __init__(self) -> None:
        self.is_paused = False

    def pause_reading(self) -> None:
        self.is_paused = True


async def comes() -> Message:
    """A body that brings something."""
    return MESSAGE


async def stalls() -> Message:
    """A body that brings nothing."""
    await asyncio.Event().wait()
    return MESSAGE


@pytest.fixture(autouse=True)
def _short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_turns, "TURN_SECONDS", 0.001)


def test_what_comes_in_a_turn_is_given() -> None:
    async def take() -> Message | None:
        connection = Connection()
        async with ReadTurns(1).message({"state": {"connection": connection}}, comes) as message:
            assert not connection.is_paused
            return message

    assert asyncio.run(take()) is MESSAGE


@pytest.mark.parametrize("served_by_us", [True, False])
def test_a_body_that_brings_nothing_is_left_in_the_network(served_by_us: bool) -> None:
    async def take() -> tuple[Message | None, bool]:
        connection = Connection()
        scope = {"state": {"connection": connection}} if served_by_us else {}
        async with ReadTurns(1).message(scope, stalls) as message:
            return message, connection.is_paused

    assert asyncio.run(take()) == (None, served_by_us)


def test_a_turn_lasts_as_long_as_its_block_and_there_are_no_more_than_said() -> None:
    async def crowd() -> int:
        turns, inside, most = ReadTurns(3), 0, 0

        async def one() -> None:
            nonlocal inside, most
            async with turns.message({}, comes):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                inside -= 1

        await asyncio.gather(*(one() for _ in range(20)))
        return most

    assert asyncio.run(crowd()) == 3


def test_a_turn_is_free_again_after_an_error() -> None:
    async def broken() -> Message:
        raise OSError("the client has gone")

    async def take() -> Message | None:
        turns = ReadTurns(1)
        with pytest.raises(OSError, match="has gone"):
            async with turns.message({}, broken):
                pass
        async with turns.message({}, comes) as message:
            return message

    assert asyncio.run(take()) is MESSAGE
