"""What every route works with, and the way from the event loop to blocking calls."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, ParamSpec, TypeVar

import anyio.to_thread
import structlog
from fastapi import Depends, Request

from api.admission import Admission
from api.api_keys import ApiKeys
from api.events import EventHub
from api.idle_health import Activity
from api.links import Links
from api.metrics import Metrics
from seg_pipeline.jobs.file_links import FileLinks, file_links
from seg_pipeline.jobs.heartbeats import WorkerHeartbeat, live_workers, uuids_at_work
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.settings import Settings
from seg_pipeline.store import Store

P = ParamSpec("P")
T = TypeVar("T")

LOOKS_INTO_FOLDER = 1000
LOOKS_INTO_BUCKET = 32
"""So many jobs without progress are looked up at once for those who listen: each is a request."""


@dataclass
class Service:
    """The settings, the store, the job repository, and the state of one process."""

    settings: Settings
    store: Store
    repository: JobRepository
    activity: Activity
    admission: Admission
    metrics: Metrics
    api_keys: ApiKeys
    files: FileLinks
    events: EventHub
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def build(cls, settings: Settings, store: Store) -> "Service":
        """A service over a store."""
        repository, closing = JobRepository(store), asyncio.Event()
        looks = LOOKS_INTO_BUCKET if settings.s3_bucket else LOOKS_INTO_FOLDER
        return cls(
            settings,
            store,
            repository,
            Activity(settings.health_idle_seconds),
            Admission.build(settings, store),
            Metrics(),
            ApiKeys(settings),
            file_links(store, settings),
            EventHub(repository, closing, looks, partial(_live_uuids, settings, store)),
            closing,
        )

    def links(self, request: Request) -> Links:
        """The links of this request's answer."""
        return Links(self.settings.base_url, request)

    def base_url(self, request: Request) -> str:
        """The URL that links begin with."""
        return self.links(request).base_url

    def live_heartbeats(self) -> list[WorkerHeartbeat]:
        """The heartbeats of live workers; blocking."""
        return _live_heartbeats(self.settings, self.store)


def _live_heartbeats(settings: Settings, store: Store) -> list[WorkerHeartbeat]:
    return live_workers(store, datetime.now(UTC), settings.worker_stale_seconds)


def _live_uuids(settings: Settings, store: Store) -> set[str]:
    """The jobs that workers have."""
    return uuids_at_work(_live_heartbeats(settings, store))


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs a blocking call beside the event loop. It is completed even if the client goes."""
    return await anyio.to_thread.run_sync(lambda: function(*args, **kwargs))


async def in_probe_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The same for probes, in threads of their own: they never wait behind requests."""
    return await asyncio.to_thread(function, *args, **kwargs)


def about_job(request: Request, uuid: str) -> None:
    """Binds the job to all later log lines and failures of this request."""
    request.state.uuid = uuid
    structlog.contextvars.bind_contextvars(uuid=uuid)


async def get_service(request: Request) -> Service:
    """The app's service.

    It is a coroutine, since plain functions wait for a thread, which probes must not.
    """
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]
