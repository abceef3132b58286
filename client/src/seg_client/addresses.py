"""Which address a request goes to, and whether the API key goes along."""

from typing import Any

import httpx

from seg_client.flows import Send

TIMEOUT = httpx.Timeout(30, read=90)
"""Seconds without progress; a request that waits for its result is answered within 30."""


class Address:
    """The service's address, http(s)://, and the key that it is used with. Raises ValueError."""

    def __init__(self, url: str, api_key: str | None) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url[:80]!r} is no address; begin it with http:// or https://.")
        self._base = httpx.URL(url.rstrip("/"))
        self._key = {"x-api-key": api_key} if api_key else {}

    def arguments(self, send: Send) -> dict[str, Any]:
        """What httpx's `request` takes, but for the content.

        The key goes to the service's own origin alone.
        """
        url = httpx.URL(f"{self._base}{send.url}" if send.url.startswith("/") else send.url)
        if send.params:
            url = url.copy_merge_params(dict(send.params))
        return {
            "method": send.method,
            "url": url,
            "headers": {**send.headers, **(self._key if self._is_ours(url) else {})},
            "json": send.json,
        }

    def _is_ours(self, url: httpx.URL) -> bool:
        return _origin(url) == _origin(self._base)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
