"""Who may ask: the API_KEYS, when there are any."""

import hmac
from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from api.error_responses import Unauthorized
from api.service import ServiceDep
from seg_pipeline.settings import Settings

_header = APIKeyHeader(name="x-api-key", auto_error=False, description="One of API_KEYS, where they are set.")
_bearer = HTTPBearer(auto_error=False, description="The same key as a bearer token.")


async def require_key(
    service: ServiceDep,
    key: Annotated[str | None, Security(_header)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> None:
    """Passes if API_KEYS is not set or the request carries one of them; else Unauthorized."""
    if service.settings.api_keys is None:
        return
    given = (key or (bearer.credentials if bearer else "")).encode()
    # Every key is compared, so that the time tells nothing about which one was close.
    matches = [hmac.compare_digest(given, known.encode()) for known in api_keys(service.settings)]
    if not any(matches):
        raise Unauthorized("this service needs a key: send it as x-api-key or as Authorization: Bearer.")


def api_keys(settings: Settings) -> list[str]:
    """The keys of API_KEYS, which are separated by commas."""
    text = settings.api_keys.get_secret_value() if settings.api_keys else ""
    return [key.strip() for key in text.split(",") if key.strip()]


RequireKey = Depends(require_key)
