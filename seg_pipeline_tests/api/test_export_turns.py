"""Turns of exports: so many at once, some wait, others are told to come again."""

import asyncio

import pytest

from api.error_responses import Busy
from api.export_turns import WAITING_FOR_EACH, ExportTurns


def test_who_gets_no_turn_in_time_is_told_so_and_the_turn_comes_back() -> None:
    async def scenario() -> None:
        turns = ExportTurns(1, wait_seconds=0.01)
        async with turns.turn():
            with pytest.raises(Busy, match="MAX_EXPORTS = 1"):
                async with turns.turn():
                    pytest.fail("there was one turn alone")
        async with turns.turn():
            pass

    asyncio.run(scenario())


def test_a_turn_that_ends_goes_to_one_who_waits() -> None:
    async def scenario() -> list[int]:
        turns, order = ExportTurns(1), list[int]()

        async def export(number: int) -> None:
            async with turns.turn():
                order.append(number)
                await asyncio.sleep(0)
                order.append(number)

        await asyncio.gather(*(export(number) for number in range(3)))
        return order

    assert asyncio.run(scenario()) == [0, 0, 1, 1, 2, 2]


def test_not_everybody_may_wait() -> None:
    async def scenario() -> list[bool]:
        turns = ExportTurns(1)
        release = asyncio.Event()

        async def export() -> bool:
            try:
                async with turns.turn():
                    await release.wait()
            except Busy:
                release.set()
                return False
            return True

        return await asyncio.gather(*(export() for _ in range(WAITING_FOR_EACH + 2)))

    assert asyncio.run(scenario()) == [True] * (WAITING_FOR_EACH + 1) + [False]
