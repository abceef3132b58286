"""A client of seg-pipeline: `Client(url).segment(picture)` gives the picture's segments."""

from seg_client.asynchronous import AsyncClient, AsyncJob, AsyncResult, AsyncSegment, AsyncSession
from seg_client.batch_flows import BatchOptions
from seg_client.batches import AsyncBatch, Batch
from seg_client.callbacks import is_genuine
from seg_client.errors import (
    ApiError,
    ConnectionFailed,
    FetchError,
    ImageError,
    PictureUnreadable,
    RequestError,
    SegClientError,
    ServiceError,
    UnexpectedAnswer,
    WaitTimeout,
)
from seg_client.events import JobEvent
from seg_client.options import JobOptions, Options
from seg_client.prompts import Prompts
from seg_client.synchronous import Client, Job, Result, Segment, Session

__all__ = [
    "ApiError",
    "AsyncBatch",
    "AsyncClient",
    "AsyncJob",
    "AsyncResult",
    "AsyncSegment",
    "AsyncSession",
    "Batch",
    "BatchOptions",
    "Client",
    "ConnectionFailed",
    "FetchError",
    "ImageError",
    "Job",
    "JobEvent",
    "JobOptions",
    "Options",
    "PictureUnreadable",
    "Prompts",
    "RequestError",
    "Result",
    "SegClientError",
    "Segment",
    "ServiceError",
    "Session",
    "UnexpectedAnswer",
    "WaitTimeout",
    "is_genuine",
]
