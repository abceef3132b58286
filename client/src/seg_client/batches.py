"""Batches: many pictures under one id, for both clients."""

from typing import TYPE_CHECKING, Any, Unpack

from seg_client import batch_flows, flows
from seg_client.answers import BatchAnswer, BatchJob
from seg_client.batch_flows import BatchOptions, Source
from seg_client.retries import Deadline

if TYPE_CHECKING:
    from seg_client.asynchronous import AsyncClient
    from seg_client.synchronous import Client


class Batches:
    """The batches of a service."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def create(self, source: Source, **options: Unpack[BatchOptions]) -> "Batch":
        """Sends many pictures as one batch. Raises SegClientError.

        They are a list of addresses, `s3://bucket/prefix`, or the path of a ZIP. Lines that are no
        addresses are among the problems of its `status`.
        """
        flow = batch_flows.create(source, options, self._client.retry_seconds)
        return self.get(self._client.run(flow))

    def get(self, uuid: str) -> "Batch":
        """A batch that was sent before."""
        return Batch(self._client, uuid)


class Batch:
    """A batch that was sent."""

    def __init__(self, client: "Client", uuid: str) -> None:
        self._client, self.uuid = client, uuid

    def wait(self, timeout: float | None = None) -> "Batch":
        """Returns once all pictures have ended, some perhaps failed. Raises WaitTimeout."""
        seconds = self._client.timeout if timeout is None else timeout
        flow = batch_flows.wait(self.uuid, Deadline(seconds), self._client.retry_seconds)
        self._client.run(flow)
        return self

    def status(self) -> BatchAnswer:
        """How many pictures stand where, and what was rejected."""
        flow = batch_flows.batch_of(self.uuid, self._client.retry_seconds)
        return flows.read(BatchAnswer, self._client.run(flow))

    def jobs(self, status: str | None = None) -> list[BatchJob]:
        """All pictures, or those that are `failed`, `completed` and so on."""
        flow = batch_flows.jobs(self.uuid, status, self._client.retry_seconds)
        return [flows.read(BatchJob, each) for each in self._client.run(flow)]

    def to_coco(self) -> dict[str, Any]:
        """COCO's document of all pictures that completed, which pycocotools reads."""
        flow = batch_flows.export(self.uuid, self._client.retry_seconds)
        return flows.document(self._client.run(flow))

    def delete(self) -> bool:
        """Deletes the batch with its jobs; False if it has not ended, and is being cancelled."""
        return self._client.run(batch_flows.delete(self.uuid, self._client.retry_seconds))


class AsyncBatches:
    """The batches of a service."""

    def __init__(self, client: "AsyncClient") -> None:
        self._client = client

    async def create(self, source: Source, **options: Unpack[BatchOptions]) -> "AsyncBatch":
        """See `Batches.create`."""
        flow = batch_flows.create(source, options, self._client.retry_seconds)
        return self.get(await self._client.run(flow))

    def get(self, uuid: str) -> "AsyncBatch":
        """A batch that was sent before."""
        return AsyncBatch(self._client, uuid)


class AsyncBatch:
    """A batch that was sent."""

    def __init__(self, client: "AsyncClient", uuid: str) -> None:
        self._client, self.uuid = client, uuid

    async def wait(self, timeout: float | None = None) -> "AsyncBatch":
        """See `Batch.wait`."""
        seconds = self._client.timeout if timeout is None else timeout
        flow = batch_flows.wait(self.uuid, Deadline(seconds), self._client.retry_seconds)
        await self._client.run(flow)
        return self

    async def status(self) -> BatchAnswer:
        """How many pictures stand where, and what was rejected."""
        flow = batch_flows.batch_of(self.uuid, self._client.retry_seconds)
        return flows.read(BatchAnswer, await self._client.run(flow))

    async def jobs(self, status: str | None = None) -> list[BatchJob]:
        """All pictures, or those that are `failed`, `completed` and so on."""
        flow = batch_flows.jobs(self.uuid, status, self._client.retry_seconds)
        return [flows.read(BatchJob, each) for each in await self._client.run(flow)]

    async def to_coco(self) -> dict[str, Any]:
        """COCO's document of all pictures that completed, which pycocotools reads."""
        flow = batch_flows.export(self.uuid, self._client.retry_seconds)
        return flows.document(await self._client.run(flow))

    async def delete(self) -> bool:
        """See `Batch.delete`."""
        return await self._client.run(batch_flows.delete(self.uuid, self._client.retry_seconds))
