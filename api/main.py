"""`python -m api.main`: the API on API_HOST and API_PORT until a signal ends it."""

import logging
import os
import resource
import socket
import sys
from contextlib import suppress
from functools import partial

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from api.app import create_app
from api.connections import Connections
from api.http_protocol import GuardedProtocol
from api.service import Service
from seg_pipeline.errors import StoreError
from seg_pipeline.settings import Settings, get_settings
from seg_pipeline.store import open_store
from seg_pipeline.store.format import refuse_newer
from seg_pipeline.store.private_folder import make_private
from seg_pipeline.telemetry.logs import configure_logging

log = logging.getLogger("api.main")

GRACE_SECONDS = 5
"""How long a closing server waits for answers in progress."""

FILES_BESIDE = 256
"""Open files other than connections and uploads: the store's, the log's, the libraries'."""


class Server(uvicorn.Server):
    """Uvicorn, except that at its close requests that wait for a result answer 202 at once."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wakes the waiting requests, then closes as uvicorn does."""
        self._service.closing.set()
        await super().shutdown(sockets)


def main() -> None:
    """Serves until SIGINT or SIGTERM. A failure to start is one line."""
    configure_logging("api")
    try:
        settings = get_settings()
        if not settings.s3_bucket:
            make_private(settings.data_dir)
        refuse_newer(open_store(settings))
        server, listener = make_server(create_app(settings)), listen(settings)
    except (ValidationError, StoreError, OSError) as error:
        sys.exit(f"api: {_one_line(error)}")
    log.info("listening on http://%s:%s", settings.api_host, settings.api_port)
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal again once it has closed
        server.run(sockets=[listener])


def make_server(app: FastAPI) -> Server:
    """The app in its server."""
    settings = app.state.service.settings
    config = uvicorn.Config(
        app,
        http=partial(GuardedProtocol, connections=Connections(_connection_limit(settings))),  # type: ignore[arg-type]
        log_config=None,
        ws="none",
        server_header=False,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return Server(config, app.state.service)


def listen(settings: Settings) -> socket.socket:
    """A listening socket.

    Raises OSError with a sentence if the port is taken or the address is not this machine's.
    """
    host, port = settings.api_host, settings.api_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(
            f"cannot listen on {host} port {port} ({reason}); set API_PORT or API_HOST."
        ) from error


def _connection_limit(settings: Settings) -> int:
    """MAX_CONNECTIONS, or fewer where this process may open too few files for twice as many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    possible = (
        settings.max_connections
        if hard == resource.RLIM_INFINITY
        else (hard - FILES_BESIDE - settings.max_uploads) // 2
    )
    if possible < settings.max_connections:
        log.warning(
            "MAX_CONNECTIONS is %s here, not %s: see `ulimit -n`",
            possible,
            settings.max_connections,
        )
    return max(16, min(possible, settings.max_connections))


def _one_line(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(
        f"{str(each['loc'][-1]).upper() if each['loc'] else 'settings'}: {each['msg']}"
        for each in error.errors()
    )


if __name__ == "__main__":
    main()
