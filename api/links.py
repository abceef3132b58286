"""Every address that an answer leads to: below BASE_URL, or below what the client used."""

from urllib.parse import urlencode, urlsplit

from starlette.requests import Request


class Links:
    """Addresses of this service, as the asker of one request reaches it.

    Behind a proxy that takes a prefix away only BASE_URL knows the prefix. Where it is set, no
    header of a request has a say in any link.
    """

    def __init__(self, public_url: str | None, request: Request) -> None:
        self.base_url = (public_url or str(request.base_url)).rstrip("/")
        self._prefix = urlsplit(self.base_url).path

    def to(self, path: str, **query: object) -> str:
        """A reference without scheme and host to one of our paths, which begins with `/`."""
        given = {name: value for name, value in query.items() if value is not None}
        return f"{self._prefix}{path}" + (f"?{urlencode(given)}" if given else "")

    def job(self, uuid: str) -> str:
        """Where a job is asked for."""
        return self.to(f"/jobs/{uuid}")
