"""A stand-in for AWS (S3, SQS), as moto speaks it over HTTP."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app

from seg_pipeline_tests.serving import WsgiApp, serving

REGION = "us-east-1"


class _AtomicCreates:
    """moto looks and writes in two steps; S3 does not, so conditional writes are let in one at a
    time."""

    def __init__(self, app: WsgiApp) -> None:
        self._app = app
        self._lock = Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if "HTTP_IF_NONE_MATCH" not in environ:
            return self._app(environ, start_response)
        with self._lock:
            return self._app(environ, start_response)


@contextmanager
def aws_server() -> Iterator[str]:
    """The URL of a stand-in that takes any credentials."""
    with serving(_AtomicCreates(DomainDispatcherApplication(create_backend_app))) as url:
        yield url
