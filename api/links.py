"""The URLs in answers: below BASE_URL, or below the URL that the client used."""

from urllib.parse import urlencode, urlsplit

from starlette.requests import Request


class Links:
    """URLs of this service, as the client of one request reaches it.

    Only BASE_URL knows a prefix that a proxy removes. If it is set, no header of a request affects
    a link.
    """

    def __init__(self, public_url: str | None, request: Request) -> None:
        self.base_url = (public_url or str(request.base_url)).rstrip("/")
        self._prefix = urlsplit(self.base_url).path

    def to(self, path: str, **query: object) -> str:
        """A reference without scheme and host to one of our paths, which begins with `/`."""
        given = {name: value for name, value in query.items() if value is not None}
        return f"{self._prefix}{path}" + (f"?{urlencode(given)}" if given else "")

    def job(self, uuid: str) -> str:
        """The path of a job."""
        return self.to(f"/jobs/{uuid}")
