"""Builds the app."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from urllib.parse import urlsplit

from fastapi import FastAPI

from api.error_responses import install_failure_handlers
from api.middleware.cross_origin import CrossOrigin
from api.middleware.hosts import AllowedHosts
from api.middleware.lingering import LingeringClose
from api.middleware.methods import Methods
from api.middleware.observing import Observing
from api.openapi import openapi_of
from api.readiness import ReadinessCheck
from api.routes import (
    assets,
    batch_exports,
    batches,
    documentation,
    events,
    exports,
    health,
    jobs,
    models,
    page,
    parked,
    segment,
)
from api.service import Service
from api.service_metrics import ServiceMetrics
from seg_pipeline.settings import Settings, get_settings
from seg_pipeline.store import Store, open_store

DESCRIPTION = """An image in, its segments out.

`POST /segment` answers with the segments, `POST /jobs` with an address where they will be; files
are below `/assets/`.
Every failure is `{"error": "<one sentence>", "code": "<word>"}` and names the job where there is
one."""


def create_app(settings: Settings | None = None, store: Store | None = None) -> FastAPI:
    """The service over a store, by default those of the environment.

    It does not use the store yet.
    """
    settings = settings or get_settings()
    service = Service.build(settings, store or open_store(settings))
    app = FastAPI(
        title="seg-pipeline",
        version=version("seg-pipeline"),
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
        redirect_slashes=False,
        servers=[{"url": urlsplit(settings.base_url or "").path.rstrip("/") or "/"}],
    )
    app.state.service = service
    app.state.readiness = ReadinessCheck(service)
    app.state.service_metrics = ServiceMetrics(service)
    for routes in (
        *(segment, jobs, events, batches, batch_exports, exports, models, parked),
        *(assets, health),
        *(documentation, page),
    ):
        # `include_router` would build each route once more, in each app, at its first request.
        app.router.routes.extend(routes.router.routes)
    _add_middleware(app, service)
    install_failure_handlers(app)
    app.openapi = partial(openapi_of, app)  # type: ignore[method-assign]
    return app


def _add_middleware(app: FastAPI, service: Service) -> None:
    """The last one that is added is the first that a request meets."""
    app.add_middleware(Methods, routes=app.router.routes)
    if service.settings.cors_origins:
        app.add_middleware(CrossOrigin, origins=service.settings.cors_origins)
    app.add_middleware(AllowedHosts, settings=service.settings)
    app.add_middleware(LingeringClose)
    app.add_middleware(Observing, service=service)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Reports metrics meanwhile. When the server closes, waiting requests are answered."""
    app.state.service_metrics.begin()
    yield
    app.state.service.closing.set()
    await app.state.service_metrics.end()
