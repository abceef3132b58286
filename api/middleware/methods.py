"""The methods that every path has beside its own: HEAD wherever there is GET, and OPTIONS."""

from collections.abc import Sequence

from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class Methods:
    """ASGI middleware: answers OPTIONS, and HEAD as GET without the body.

    RFC 9110 asks for HEAD (9.1), and uptime monitors and load balancers use it. The server leaves
    the body out, since it still knows what was asked.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self.app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and (allowed := allowed_methods(scope, self._routes)):
            await Response(status_code=204, headers={"Allow": ", ".join(allowed)})(
                scope, receive, send
            )
        elif scope["method"] == "HEAD" and not _has(scope, "HEAD", self._routes):
            await self._as_get(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _as_get(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = {**scope, "method": "GET"}
        try:
            await self.app(asked, receive, send)
        finally:
            scope["route"] = asked.get("route")  # the metrics' label


def allowed_methods(scope: Scope, routes: Sequence[BaseRoute]) -> list[str]:
    """The methods that the path has, in the order of `METHODS`; none if there is no such path."""
    if scope["path"] == "*":
        return [*METHODS, "OPTIONS"]
    found = [method for method in METHODS if _has(scope, method, routes)]
    if "GET" in found and "HEAD" not in found:
        found.insert(1, "HEAD")
    return [*found, "OPTIONS"] if found else []


def _has(scope: Scope, method: str, routes: Sequence[BaseRoute]) -> bool:
    asked = {**scope, "method": method}
    return any(route.matches(asked)[0] is Match.FULL for route in routes)
