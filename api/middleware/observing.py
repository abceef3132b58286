"""Observes every request: the health check's clock, the metrics, and log lines with its job."""

import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.middleware.methods import METHODS
from api.routes.health import PROBES
from api.service import Service

_KNOWN_METHODS = frozenset({*METHODS, "OPTIONS"})


class Observing:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        structlog.contextvars.clear_contextvars()
        if scope["path"] in PROBES:  # they are no activity
            await self.app(scope, receive, send)
            return
        self.service.activity.begin()
        try:
            await self._measured(scope, receive, send)
        finally:
            self.service.activity.end()

    async def _measured(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, started = 500, time.perf_counter()

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        metrics = self.service.metrics
        with metrics.under_way.track_inprogress():
            try:
                await self.app(scope, receive, watched_send)
            finally:
                method = scope["method"] if scope["method"] in _KNOWN_METHODS else "other"
                metrics.observe(method, _route(scope), status, time.perf_counter() - started)


def _route(scope: Scope) -> str:
    """The matched route's template, or one label for all unmatched requests."""
    return getattr(scope.get("route"), "path", "unmatched")
