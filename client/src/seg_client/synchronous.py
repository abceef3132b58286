"""The client that blocks."""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import httpx
from pydantic import PrivateAttr

from seg_client import flows
from seg_client.addresses import TIMEOUT, Address
from seg_client.answers import JobAnswer, SegmentAnswer
from seg_client.batches import Batches
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
from seg_client.uploads import pieces

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")


class Client:
    """A service at an address, for one thread or many; closed by `with`.

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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._address = Address(url, api_key)
        self.timeout, self.retry_seconds = timeout, retry_seconds
        self._http = httpx.Client(timeout=TIMEOUT, transport=transport)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def segment(self, picture: "Picture | None", **options: Unpack[JobOptions]) -> "Result":
        """The segments of a picture. Raises SegClientError.

        A picture in which nothing is found has a result without segments. With `image_of` the
        picture is None.
        """
        flow = flows.segment(sendable(picture), options, self.timeout, self.retry_seconds)
        return self._result(self.run(flow))

    def map(
        self, pictures: Iterable[Picture], parallel: int = 4, **options: Unpack[Options]
    ) -> "Iterator[Result | SegClientError]":
        """For each picture, in their order, its result or what went wrong."""

        def one(picture: Picture) -> "Result | SegClientError":
            try:
                return self.segment(picture, **options)
            except SegClientError as error:
                return error

        pool = ThreadPoolExecutor(parallel)
        try:
            yield from pool.map(one, pictures)
        finally:
            pool.shutdown(cancel_futures=True)

    @property
    def batches(self) -> Batches:
        """Many pictures at once, under one id."""
        return Batches(self)

    def session(self, picture: Picture, **options: Unpack[Options]) -> "Session":
        """A picture to be asked about more than once, by a SAM-2. It is sent once."""
        return Session(self, Asked(sendable(picture), options))

    def prompted(self, asked: Asked, prompts: Prompts) -> "Result":
        """See `Session.segment`."""
        flow = asked.ask(prompts, self.timeout, self.retry_seconds)
        return self._result(self.run(flow))

    def submit(self, picture: "Picture | None", **options: Unpack[JobOptions]) -> "Job":
        """Sends a picture without waiting for its segments."""
        return self.job(self.run(flows.submit(sendable(picture), options, self.retry_seconds)))

    def job(self, uuid: str) -> "Job":
        """A job that was sent before."""
        return Job(self, uuid)

    def wait(self, uuid: str, timeout: float) -> "Result":
        """See `Job.wait`."""
        return self._result(self.run(flows.wait(uuid, Deadline(timeout), self.retry_seconds)))

    def events(self, uuid: str) -> Iterator[JobEvent]:
        """See `Job.events`."""
        reader = EventReader(uuid, self.retry_seconds)
        while not reader.is_over:
            answer = None
            try:
                with self._http.stream(**self._address.arguments(reader.request())) as answer:
                    if not answer.is_success:
                        answer.read()
                    reader.answered(answer)
                    for line in answer.iter_lines() if answer.is_success else ():
                        if event := reader.read(line):
                            yield event
            except httpx.TransportError:
                answer = None
            if not reader.is_over:
                time.sleep(reader.pause(answer))

    def run(self, flow: flows.Flow[T]) -> T:
        """Does what the flow says, and returns what it ends with."""
        came: flows.Came = None
        while True:
            try:
                step = flows.advance(flow, came)
            except StopIteration as end:
                value: T = end.value
                return value
            came = self._do(step)

    def _do(self, step: flows.Send | flows.Pause) -> flows.Came:
        if isinstance(step, flows.Pause):
            time.sleep(step.seconds)
            return None
        try:
            request = self._address.arguments(step)
            return self._http.request(**request, content=pieces(step.content))
        except httpx.TransportError as error:
            return error

    def _result(self, job: dict[str, Any]) -> "Result":
        return flows.read(Result, job).bound_to(self)


class Job:
    """A job that was sent."""

    def __init__(self, client: Client, uuid: str) -> None:
        self._client, self.uuid = client, uuid

    def wait(self, timeout: float | None = None) -> "Result":
        """The result, once it is there. Raises WaitTimeout, or what the job failed with."""
        return self._client.wait(self.uuid, self._client.timeout if timeout is None else timeout)

    def status(self) -> str:
        """`queued`, `processing`, `completed` or `failed`."""
        job = self._client.run(flows.job_of(self.uuid, self._client.retry_seconds))
        return flows.read(JobAnswer, job).status

    def retry(self) -> None:
        """Has the service run it again, if it has failed. Raises NotFailed."""
        self._client.run(flows.retry(self.uuid, self._client.retry_seconds))

    def events(self) -> Iterator[JobEvent]:
        """Where the job stands, now and as it changes; the last one is its end.

        A connection that breaks is made again, for `retry_seconds` without an event at most.
        """
        return self._client.events(self.uuid)

    def cancel(self) -> bool:
        """Ends the job as `cancelled`; False if a worker has it, and stops in seconds.

        Raises JobFinished if it has ended already.
        """
        return self._client.run(flows.cancel(self.uuid, self._client.retry_seconds))

    def delete(self) -> bool:
        """Deletes the job and its files; False if it is only being cancelled yet."""
        return self._client.run(flows.delete(self.uuid, self._client.retry_seconds))


class Session:
    """A picture that the service keeps for further prompts. For one caller at a time."""

    def __init__(self, client: Client, asked: Asked) -> None:
        self._client, self._asked = client, asked

    def segment(self, **prompts: Unpack[Prompts]) -> "Result":
        """What the prompts ask for. The second one takes a fraction of the first one's time.

        The picture is sent again only if the service has it no more. Raises SegClientError.
        """
        return self._client.prompted(self._asked, prompts)


class Segment(SegmentAnswer):
    """One thing found."""

    _client: Client | None = PrivateAttr(None)

    def mask(self) -> BoolMask:
        """The mask `(H, W) bool`: from the run lengths if the job asked for them, else its file."""
        return mask_of_run_lengths(self.rle) if self.rle else mask_of_png(self._get(self.mask_url))

    def crop(self) -> "Image":
        """The segment cut out, transparent outside it."""
        return image_of(self._get(self.crop_url))

    def save(self, folder: str | PathLike[str]) -> list[Path]:
        """Writes the mask and the cut-out, and returns where."""
        return [write_file(Path(folder), name, self._get(url)) for name, url in segment_files(self)]

    def _get(self, url: str) -> bytes:
        return _bound(self._client).run(flows.file(url, _bound(self._client).retry_seconds))


class Result(JobAnswer):
    """A completed job."""

    segments: tuple[Segment, ...] = ()
    _client: Client | None = PrivateAttr(None)

    def bound_to(self, client: Client) -> "Result":
        """The same, whose files come by this client."""
        self._client = client
        for segment in self.segments:
            segment._client = client
        return self

    def save(self, folder: str | PathLike[str]) -> list[Path]:
        """Writes the picture, the overlay, all masks and cut-outs and `result.json`."""
        client, place = _bound(self._client), Path(folder)
        files = [
            write_file(place, name, client.run(flows.file(url, client.retry_seconds)))
            for name, url in result_files(self)
        ]
        return [*files, write_result(place, self)]

    def to_coco(self) -> dict[str, Any]:
        """COCO's document, which pycocotools reads; made by the service while it has the files."""
        client = _bound(self._client)
        return flows.document(client.run(flows.export(self.uuid, "coco", client.retry_seconds)))

    def to_supervision(self) -> Any:
        """supervision's `Detections`. Raises ImportError without supervision."""
        return detections(self, [each.mask() for each in self.segments])

    def to_fiftyone(self) -> Any:
        """FiftyOne's `Detections`. Raises ImportError without FiftyOne."""
        return fiftyone_detections(self, [each.mask() for each in self.segments])

    def to_label_studio(self, image: str, tag: str = "label") -> dict[str, Any]:
        """A task for Label Studio with a rectangle for each segment."""
        return label_studio_task(self, image, tag)

    def to_label_studio_polygons(self, image: str, tag: str = "label") -> dict[str, Any]:
        """A task for Label Studio with a polygon for each part of each segment."""
        client = _bound(self._client)
        flow = flows.export(self.uuid, "polygons", client.retry_seconds, tolerance=1)
        features = flows.document(client.run(flow))["features"]
        return label_studio_polygons(self, features, image, tag)

    def to_label_studio_masks(self, image: str, tag: str = "label") -> dict[str, Any]:
        """A task for Label Studio with each segment's mask as its brush draws it."""
        return label_studio_masks(self, [each.mask() for each in self.segments], image, tag)


def _bound(client: Client | None) -> Client:
    if client is None:
        raise SegClientError("this result was not made by a client, so its files cannot be had.")
    return client
