"""Lets web pages of other origins use the API, if CORS_ORIGINS names them."""

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from seg_pipeline.settings import listed

ALLOWED_HEADERS = (
    *("Accept", "Authorization", "Content-Type", "If-None-Match", "Idempotency-Key"),
    *("Last-Event-ID", "Prefer", "X-Api-Key"),
)
EXPOSED_HEADERS = (
    *("Content-Disposition", "ETag", "Link", "Location", "Preference-Applied", "Retry-After"),
    *("WWW-Authenticate", "X-Job-Uuid"),
)
"""What a page may read of an answer, beside what every page may (the Fetch standard, 2.2.1)."""

_PREFLIGHT_SECONDS = 600


class CrossOrigin(CORSMiddleware):
    """Starlette's middleware with this API's methods and headers. Keys are headers: no cookies."""

    def __init__(self, app: ASGIApp, origins: str) -> None:
        super().__init__(
            app,
            allow_origins=[origin.rstrip("/") for origin in listed(origins)],
            allow_methods=("GET", "HEAD", "POST", "DELETE"),
            allow_headers=ALLOWED_HEADERS,
            expose_headers=EXPOSED_HEADERS,
            max_age=_PREFLIGHT_SECONDS,
        )
