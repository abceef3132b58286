"""`AsyncClient` does what `Client` does."""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pytest

import seg_client
from seg_client import AsyncClient, AsyncResult
from seg_client.errors import JobFinished, JobNotFound, NotAnImage
from seg_pipeline_tests.api.stand_ins import DRAWING
from seg_pipeline_tests.builders import bits, make_picture, picture_bytes
from seg_pipeline_tests.client.conftest import InALoop

T = TypeVar("T")


class WithClient(Protocol):
    """Returns what `use` returns of a client."""

    def __call__(self, use: Callable[[AsyncClient], Awaitable[T]], /) -> T: ...


@pytest.fixture
def with_client(service: str, in_a_loop: InALoop) -> WithClient:
    """Uses a client of the service, in each of the event loops."""

    def with_client(use: Callable[[AsyncClient], Awaitable[T]]) -> T:
        async def run() -> T:
            async with AsyncClient(service, timeout=20, retry_seconds=5) as client:
                return await use(client)

        return in_a_loop(run)

    return with_client


@pytest.mark.parametrize("name", ["Client", "Job", "Result", "Segment"])
def test_both_clients_offer_the_same(name: str) -> None:
    def offered(kind: type) -> set[str]:
        return {each for each in dir(kind) if not each.startswith("_")}

    blocking, awaiting = getattr(seg_client, name), getattr(seg_client, f"Async{name}")
    assert offered(blocking) == offered(awaiting)


@pytest.mark.parametrize("rle", [True, False])
def test_a_picture_comes_back_in_segments_and_files(
    with_client: WithClient, tmp_path: Path, rle: bool
) -> None:
    async def use(client: AsyncClient) -> None:
        result = await client.segment(picture_bytes(), rle=rle)
        segment = result.segments[0]
        assert np.array_equal(await segment.mask(), bits(DRAWING))
        assert (await segment.crop()).size == (2, 2)
        assert len(await segment.save(tmp_path)) == 2
        assert len(await result.save(tmp_path)) == 7
        assert len((await result.to_coco())["annotations"]) == 2
        task = await result.to_label_studio_polygons("a.png")
        assert len(task["predictions"][0]["result"]) == 2
        task = await result.to_label_studio_masks("a.png")
        assert len(task["predictions"][0]["result"]) == 2

    with_client(use)


def test_a_job_is_sent_waited_for_and_deleted(with_client: WithClient) -> None:
    async def use(client: AsyncClient) -> None:
        job = await client.submit(picture_bytes())
        result = await job.wait(20)
        assert (result.uuid, await job.status()) == (job.uuid, "completed")
        with pytest.raises(JobFinished):
            await job.cancel()
        assert await job.delete()
        with pytest.raises(JobNotFound):
            await job.status()

    with_client(use)


def test_a_map_is_in_order_and_has_errors_in_their_places(with_client: WithClient) -> None:
    pictures = [picture_bytes(make_picture(seed=n)) for n in range(4)]

    async def use(client: AsyncClient) -> list[type]:
        return [type(each) async for each in client.map([*pictures, b"text"], parallel=2)]

    assert with_client(use) == [AsyncResult] * 4 + [NotAnImage]


def test_a_map_asks_for_a_picture_when_it_is_sent_and_may_be_left(with_client: WithClient) -> None:
    """A folder of thousands is not read at once, and what was not sent stays unsent."""
    asked: list[int] = []

    def pictures() -> Iterator[bytes]:
        for number in range(100):
            asked.append(number)
            yield picture_bytes(make_picture(seed=number))

    async def use(client: AsyncClient) -> int:
        found = client.map(pictures(), parallel=3)
        first = await anext(found)
        await found.aclose()
        return len(first.segments) if isinstance(first, AsyncResult) else 0

    assert with_client(use) == 2
    assert asked == [0, 1, 2]


def test_a_map_raises_what_is_no_pictures_fault(with_client: WithClient) -> None:
    wrong: Any = {"parameters": {"confidence": object()}}

    async def use(client: AsyncClient) -> list[object]:
        return [each async for each in client.map([picture_bytes()] * 2, **wrong)]

    with pytest.raises(TypeError):
        with_client(use)
