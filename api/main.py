"""`python -m api.main`: the API on API_HOST and API_PORT until a signal ends it."""

import logging
import os
import socket
import sys
from contextlib import suppress

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from api.app import create_app
from api.http_protocol import GuardedProtocol
from api.logs import configure_logging
from api.service import Service
from seg_pipeline.errors import StoreError
from seg_pipeline.settings import Settings, get_settings
from seg_pipeline.store.private_folder import make_private

log = logging.getLogger(__name__)

GRACE_SECONDS = 5
"""How long a closing server waits for answers that are under way."""

MAX_CONNECTIONS = 512
"""More get a plain 503 from the server itself, which never touches the app."""


class Server(uvicorn.Server):
    """Uvicorn, except that requests which wait for a result are told when it closes: they answer 202 at once."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wakes those who wait, then closes as uvicorn does."""
        self._service.closing.set()
        await super().shutdown(sockets)


def main() -> None:
    """Serves until SIGINT or SIGTERM; what keeps it from starting is one line."""
    configure_logging()
    try:
        settings = get_settings()
        if not settings.s3_bucket:
            make_private(settings.data_dir)
        server, listener = make_server(create_app(settings)), listen(settings)
    except (ValidationError, StoreError, OSError) as error:
        sys.exit(f"api: {_one_line(error)}")
    log.info("listening on http://%s:%s", settings.api_host, settings.api_port)
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal again once it has closed
        server.run(sockets=[listener])


def make_server(app: FastAPI) -> Server:
    """The app in its server."""
    config = uvicorn.Config(
        app,
        http=GuardedProtocol,
        log_config=None,
        ws="none",
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return Server(config, app.state.service)


def listen(settings: Settings) -> socket.socket:
    """A listening socket; OSError with a sentence if the port is taken or the address is not this machine's."""
    host, port = settings.api_host, settings.api_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(f"cannot listen on {host} port {port} ({reason}); set API_PORT or API_HOST.") from error


def _one_line(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(
        f"{str(each['loc'][-1]).upper() if each['loc'] else 'settings'}: {each['msg']}" for each in error.errors()
    )


if __name__ == "__main__":
    main()
