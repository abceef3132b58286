"""`AsyncClient` does what `Client` does."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

import seg_client
from seg_client import AsyncClient, AsyncResult
from seg_client.errors import JobFinished, JobNotFound, NotAnImage
from seg_pipeline_tests.api.stand_ins import DRAWING
from seg_pipeline_tests.builders import bits, make_picture, picture_bytes

T = TypeVar("T")


def with_client(url: str, use: Callable[[AsyncClient], Awaitable[T]]) -> T:
    """What `use` returns of a client of that address."""

    async def run() -> T:
        async with AsyncClient(url, timeout=20, retry_seconds=5) as client:
            return await use(client)

    return asyncio.run(run())


@pytest.mark.parametrize("name", ["Client", "Job", "Result", "Segment"])
def test_both_clients_offer_the_same(name: str) -> None:
    def offered(kind: type) -> set[str]:
        return {each for each in dir(kind) if not each.startswith("_")}

    blocking, awaiting = getattr(seg_client, name), getattr(seg_client, f"Async{name}")
    assert offered(blocking) == offered(awaiting)


@pytest.mark.parametrize("rle", [True, False])
def test_a_picture_comes_back_in_segments_and_files(
    service: str, tmp_path: Path, rle: bool
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

    with_client(service, use)


def test_a_job_is_sent_waited_for_and_deleted(service: str) -> None:
    async def use(client: AsyncClient) -> None:
        job = await client.submit(picture_bytes())
        result = await job.wait(20)
        assert (result.uuid, await job.status()) == (job.uuid, "completed")
        with pytest.raises(JobFinished):
            await job.cancel()
        assert await job.delete()
        with pytest.raises(JobNotFound):
            await job.status()

    with_client(service, use)


def test_a_map_is_in_order_and_has_errors_in_their_places(service: str) -> None:
    pictures = [picture_bytes(make_picture(seed=n)) for n in range(4)]

    async def use(client: AsyncClient) -> list[type]:
        return [type(each) async for each in client.map([*pictures, b"text"], parallel=2)]

    assert with_client(service, use) == [AsyncResult] * 4 + [NotAnImage]
