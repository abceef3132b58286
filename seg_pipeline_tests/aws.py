"""A stand-in for AWS (S3, SQS), as moto speaks it over HTTP."""

import hmac
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Lock
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
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


class PrivateBucket:
    """An S3 server that opens an object to nobody without a signature, or with one that has ended.

    moto looks at no signature. This one computes it once more, by botocore.
    """

    def __init__(self, app: WsgiApp, secret: str, clock: Callable[[], float] = time.time) -> None:
        self._app, self._secret, self._clock = app, secret, clock

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Passes on what is signed."""
        if "HTTP_AUTHORIZATION" in environ or self._is_open_to(environ):
            return self._app(environ, start_response)
        start_response("403 Forbidden", [("Content-Length", "0")])
        return [b""]

    def _is_open_to(self, environ: dict[str, Any]) -> bool:
        query = dict(parse_qsl(environ["QUERY_STRING"]))
        given = query.pop("X-Amz-Signature", "")
        if not given:
            return False
        signed_at = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        ends_at = signed_at.timestamp() + int(query["X-Amz-Expires"])
        return hmac.compare_digest(given, self._signature(environ, query)) and (
            self._clock() <= ends_at
        )

    def _signature(self, environ: dict[str, Any], query: dict[str, str]) -> str:
        key, _, region, *_ = query["X-Amz-Credential"].split("/")
        auth = S3SigV4QueryAuth(Credentials(key, self._secret), "s3", region)
        path = quote(environ["PATH_INFO"])
        url = f"http://{environ['HTTP_HOST']}{path}?{urlencode(query, quote_via=quote)}"
        request = AWSRequest("GET", url)
        request.context["timestamp"] = query["X-Amz-Date"]
        to_sign = auth.string_to_sign(request, auth.canonical_request(request))
        return str(auth.signature(to_sign, request))


@contextmanager
def private_bucket_server(secret: str, clock: Callable[[], float] = time.time) -> Iterator[str]:
    """The URL of an S3 server that checks the signatures of links."""
    with serving(PrivateBucket(_aws(), secret, clock)) as url:
        yield url


def _aws() -> WsgiApp:
    return _AtomicCreates(DomainDispatcherApplication(create_backend_app))


@contextmanager
def aws_server() -> Iterator[str]:
    """The URL of a stand-in that takes any credentials."""
    with serving(_aws()) as url:
        yield url
