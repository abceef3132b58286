"""The client that awaits, on asyncio or trio."""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from itertools import islice
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import anyio
import httpx
from pydantic import PrivateAttr

from seg_client import flows
from seg_client.addresses import TIMEOUT, Address
from seg_client.answers import JobAnswer, SegmentAnswer
from seg_client.batches import AsyncBatches
from seg_client.conversions import (
    detections,
    fiftyone_detections,
    label_studio_masks,
    label_studio_polygons,
    label_studio_task,
)
from seg_client.errors import SegClientError
from seg_client.events import EventReader, JobEvent
from seg_client.images import image_of
from seg_client.masks import BoolMask, mask_of_png, mask_of_run_lengths
from seg_client.options import JobOptions, Options
from seg_client.pictures import Picture, sendable
from seg_client.prompts import Asked, Prompts
from seg_client.retries import Deadline
from seg_client.saving import result_files, segment_files, write_file, write_result
from seg_client.uploads import pieces_later

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")


class AsyncClient:
    """A service at an address, for one event loop of asyncio or trio; closed by `async with`.

    `timeout` is how many seconds a job may take, `retry_seconds` how long a request that fails in
    passing is sent again. `transport` is httpx's, for proxies and certificates.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = 300,
        retry_seconds: float = 30,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._address = Address(url, api_key)
        self.timeout, self.retry_seconds = timeout, retry_seconds
        self._http = httpx.AsyncClient(timeout=TIMEOUT, transport=transport)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def segment(
        self, picture: "Picture | None", **options: Unpack[JobOptions]
    ) -> "AsyncResult":
        """The segments of a picture. Raises SegClientError.

        A picture in which nothing is found has a result without segments. With `image_of` the
        picture is None.
        """
        flow = flows.segment(sendable(picture), options, self.timeout, self.retry_seconds)
        return self._result(await self.run(flow))

    async def map(
        self, pictures: Iterable[Picture], parallel: int = 4, **options: Unpack[Options]
    ) -> "AsyncGenerator[AsyncResult | SegClientError, None]":
        """For each picture, in their order, its result or what went wrong.

        `parallel` jobs are under way at once. A picture is asked of `pictures` when it is sent.
        """
        coming, ahead = iter(pictures), deque[_Turn]()
        while True:
            new = [_Turn(self, picture) for picture in islice(coming, parallel - len(ahead))]
            ahead.extend(new)
            if not ahead:
                return
            async with anyio.create_task_group() as group:
                for turn in new:
                    group.start_soon(turn.send, options)
                group.start_soon(ahead[0].wait)
            yield ahead.popleft().outcome()

    @property
    def batches(self) -> AsyncBatches:
        """Many pictures at once, under one id."""
        return AsyncBatches(self)

    def session(self, picture: Picture, **options: Unpack[Options]) -> "AsyncSession":
        """A picture to be asked about more than once, by a SAM-2. It is sent once."""
        return AsyncSession(self, Asked(sendable(picture), options))

    async def prompted(self, asked: Asked, prompts: Prompts) -> "AsyncResult":
        """See `AsyncSession.segment`."""
        flow = asked.ask(prompts, self.timeout, self.retry_seconds)
        return self._result(await self.run(flow))

    async def submit(self, picture: "Picture | None", **options: Unpack[JobOptions]) -> "AsyncJob":
        """Sends a picture without waiting for its segments."""
        flow = flows.submit(sendable(picture), options, self.retry_seconds)
        return self.job(await self.run(flow))

    def job(self, uuid: str) -> "AsyncJob":
        """A job that was sent before."""
        return AsyncJob(self, uuid)

    async def wait(self, uuid: str, timeout: float) -> "AsyncResult":
        """See `AsyncJob.wait`."""
        return self._result(await self.run(flows.wait(uuid, Deadline(timeout), self.retry_seconds)))

    async def events(self, uuid: str) -> AsyncIterator[JobEvent]:
        """See `AsyncJob.events`."""
        reader = EventReader(uuid, self.retry_seconds)
        while not reader.is_over:
            answer = None
            try:
                request = self._address.arguments(reader.request())
                async with self._http.stream(**request) as answer:
                    if not answer.is_success:
                        await answer.aread()
                    reader.answered(answer)
                    if answer.is_success:
                        async for line in answer.aiter_lines():
                            if event := reader.read(line):
                                yield event
            except httpx.TransportError:
                answer = None
            if not reader.is_over:
                await anyio.sleep(reader.pause(answer))

    async def run(self, flow: flows.Flow[T]) -> T:
        """Does what the flow says, and returns what it ends with."""
        came: flows.Came = None
        while True:
            try:
                step = flows.advance(flow, came)
            except StopIteration as end:
                value: T = end.value
                return value
            came = await self._do(step)

    async def _do(self, step: flows.Send | flows.Pause) -> flows.Came:
        if isinstance(step, flows.Pause):
            await anyio.sleep(step.seconds)
            return None
        try:
            request = self._address.arguments(step)
            return await self._http.request(**request, content=pieces_later(step.content))
        except httpx.TransportError as error:
            return error

    def _result(self, job: dict[str, Any]) -> "AsyncResult":
        return flows.read(AsyncResult, job).bound_to(self)


class _Turn:
    """A picture of `AsyncClient.map`.

    What goes wrong is kept for its turn: nothing is raised in the midst of the others.
    """

    def __init__(self, client: AsyncClient, picture: Picture) -> None:
        self._client, self._picture = client, picture
        self._sent = anyio.Event()
        self._job: AsyncJob | None = None
        self._result: AsyncResult | Exception | None = None

    async def send(self, options: Options) -> None:
        """Makes it a job."""
        try:
            self._job = await self._client.submit(self._picture, **options)
        except Exception as error:
            self._result = error
        self._sent.set()

    async def wait(self) -> None:
        """Waits until it is sent, and for its end."""
        await self._sent.wait()
        if self._job:
            try:
                self._result = await self._job.wait()
            except Exception as error:
                self._result = error

    def outcome(self) -> "AsyncResult | SegClientError":
        """The result, or what went wrong with the picture. Raises what went wrong otherwise."""
        if isinstance(self._result, AsyncResult | SegClientError):
            return self._result
        raise self._result or SegClientError("the picture was not waited for.")


class AsyncJob:
    """A job that was sent."""

    def __init__(self, client: AsyncClient, uuid: str) -> None:
        self._client, self.uuid = client, uuid

    async def wait(self, timeout: float | None = None) -> "AsyncResult":
        """The result, once it is there. Raises WaitTimeout, or what the job failed with."""
        seconds = self._client.timeout if timeout is None else timeout
        return await self._client.wait(self.uuid, seconds)

    async def status(self) -> str:
        """`queued`, `processing`, `completed` or `failed`."""
        job = await self._client.run(flows.job_of(self.uuid, self._client.retry_seconds))
        return flows.read(JobAnswer, job).status

    async def retry(self) -> None:
        """Has the service run it again, if it has failed. Raises NotFailed."""
        await self._client.run(flows.retry(self.uuid, self._client.retry_seconds))

    def events(self) -> AsyncIterator[JobEvent]:
        """Where the job stands, now and as it changes; the last one is its end.

        A connection that breaks is made again, for `retry_seconds` without an event at most.
        """
        return self._client.events(self.uuid)

    async def cancel(self) -> bool:
        """Ends the job as `cancelled`; False if a worker has it, and stops in seconds.

        Raises JobFinished if it has ended already.
        """
        return await self._client.run(flows.cancel(self.uuid, self._client.retry_seconds))

    async def delete(self) -> bool:
        """Deletes the job and its files; False if it is only being cancelled yet."""
        return await self._client.run(flows.delete(self.uuid, self._client.retry_seconds))


class AsyncSession:
    """A picture that the service keeps for further prompts. For one caller at a time."""

    def __init__(self, client: AsyncClient, asked: Asked) -> None:
        self._client, self._asked = client, asked

    async def segment(self, **prompts: Unpack[Prompts]) -> "AsyncResult":
        """What the prompts ask for. The second one takes a fraction of the first one's time.

        The picture is sent again only if the service has it no more. Raises SegClientError.
        """
        return await self._client.prompted(self._asked, prompts)


class AsyncSegment(SegmentAnswer):
    """One thing found."""

    _client: AsyncClient | None = PrivateAttr(None)

    async def mask(self) -> BoolMask:
        """The mask `(H, W) bool`: from the run lengths if the job asked for them, else its file."""
        if self.rle:
            return mask_of_run_lengths(self.rle)
        return mask_of_png(await self._get(self.mask_url))

    async def crop(self) -> "Image":
        """The segment cut out, transparent outside it."""
        return image_of(await self._get(self.crop_url))

    async def save(self, folder: str | PathLike[str]) -> list[Path]:
        """Writes the mask and the cut-out, and returns where."""
        return [
            write_file(Path(folder), name, await self._get(url))
            for name, url in segment_files(self)
        ]

    async def _get(self, url: str) -> bytes:
        return await _bound(self._client).run(flows.file(url, _bound(self._client).retry_seconds))


class AsyncResult(JobAnswer):
    """A completed job."""

    segments: tuple[AsyncSegment, ...] = ()
    _client: AsyncClient | None = PrivateAttr(None)

    def bound_to(self, client: AsyncClient) -> "AsyncResult":
        """The same, whose files come by this client."""
        self._client = client
        for segment in self.segments:
            segment._client = client
        return self

    async def save(self, folder: str | PathLike[str]) -> list[Path]:
        """Writes the picture, the overlay, all masks and cut-outs and `result.json`."""
        client, place = _bound(self._client), Path(folder)
        files = [
            write_file(place, name, await client.run(flows.file(url, client.retry_seconds)))
            for name, url in result_files(self)
        ]
        return [*files, write_result(place, self)]

    async def to_coco(self) -> dict[str, Any]:
        """COCO's document, which pycocotools reads; made by the service while it has the files."""
        client = _bound(self._client)
        flow = flows.export(self.uuid, "coco", client.retry_seconds)
        return flows.document(await client.run(flow))

    async def to_supervision(self) -> Any:
        """supervision's `Detections`. Raises ImportError without supervision."""
        return detections(self, [await each.mask() for each in self.segments])

    async def to_fiftyone(self) -> Any:
        """FiftyOne's `Detections`. Raises ImportError without FiftyOne."""
        return fiftyone_detections(self, [await each.mask() for each in self.segments])

    def to_label_studio(self, image: str, tag: str = "label") -> dict[str, Any]:
        """A task for Label Studio with a rectangle for each segment."""
        return label_studio_task(self, image, tag)

    async def to_label_studio_polygons(self, image: str, tag: str = "label") -> dict[str, Any]:
        """A task for Label Studio with a polygon for each part of each segment."""
        client = _bound(self._client)
        flow = flows.export(self.uuid, "polygons", client.retry_seconds, tolerance=1)
        features = flows.document(await client.run(flow))["features"]
        return label_studio_polygons(self, features, image, tag)

    async def to_label_studio_masks(self, image: str, tag: str = "label") -> dict[str, Any]:
        """A task for Label Studio with each segment's mask as its brush draws it."""
        masks = [await each.mask() for each in self.segments]
        return label_studio_masks(self, masks, image, tag)


def _bound(client: AsyncClient | None) -> AsyncClient:
    if client is None:
        raise SegClientError("this result was not made by a client, so its files cannot be had.")
    return client
