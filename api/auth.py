"""Authentication by API_KEYS, if they are set."""

import time
from typing import Annotated

import structlog
from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from api.error_responses import LinkRefused, RateLimited, Unauthorized
from api.service import Service, ServiceDep
from seg_pipeline.jobs.file_links import is_genuine

_header = APIKeyHeader(
    name="x-api-key", auto_error=False, description="One of API_KEYS, where they are set."
)
_bearer = HTTPBearer(auto_error=False, description="The same key as a bearer token.")

HeaderKey = Annotated[str | None, Security(_header)]
BearerKey = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


async def require_key(
    request: Request, service: ServiceDep, key: HeaderKey, bearer: BearerKey
) -> None:
    """Passes if API_KEYS is not set, or with one of them; else Unauthorized or RateLimited."""
    if service.api_keys.are_set and not _is_client(request, service, _given(key, bearer)):
        raise Unauthorized


async def require_link_or_key(
    request: Request, service: ServiceDep, key: HeaderKey, bearer: BearerKey
) -> None:
    """Passes with open links, a signed link or a key; else LinkRefused or RateLimited."""
    if service.settings.asset_link_secret is None or _is_signed(request, service):
        return
    if not (service.api_keys.are_set and _is_client(request, service, _given(key, bearer))):
        raise LinkRefused


def _given(key: str | None, bearer: HTTPAuthorizationCredentials | None) -> str:
    """The key that a request carries, in whichever header; empty if it carries none."""
    return key or (bearer.credentials if bearer else "")


def _is_client(request: Request, service: Service, given: str) -> bool:
    """Whether this is a client's key. The request's state and its log lines then name the client.

    Raises RateLimited.
    """
    client = service.api_keys.find(given)
    if client is None:
        return False
    request.state.client = client.name
    structlog.contextvars.bind_contextvars(client=client.name)
    wait_seconds = service.api_keys.wait_seconds(client)
    if wait_seconds:
        raise RateLimited(client.name, wait_seconds)
    return True


def _is_signed(request: Request, service: Service) -> bool:
    secret = service.settings.asset_link_secret
    query = request.query_params
    key = request.scope["path"].removeprefix("/")
    return secret is not None and is_genuine(
        secret.get_secret_value(),
        key,
        query.get("expires", ""),
        query.get("signature", ""),
        time.time(),
    )


RequireKey = Depends(require_key)
RequireLinkOrKey = Depends(require_link_or_key)
