"""The methods that every path also has: HEAD wherever there is GET, and OPTIONS."""

from collections.abc import Sequence

from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class Methods:
    """ASGI middleware: answers OPTIONS, and HEAD as GET without the body.

    RFC 9110 requires HEAD (9.1), and uptime monitors and load balancers use it. The server drops
    the body, since it still knows the original method.
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
        variant = {**scope, "method": "GET"}
        try:
            await self.app(variant, receive, send)
        finally:
            scope["route"] = variant.get("route")  # the metrics' label


def allowed_methods(scope: Scope, routes: Sequence[BaseRoute]) -> list[str]:
    """The methods of the path, in the order of `METHODS`; none if there is no such path."""
    if scope["path"] == "*":
        return [*METHODS, "OPTIONS"]
    methods = [method for method in METHODS if _has(scope, method, routes)]
    if "GET" in methods and "HEAD" not in methods:
        methods.insert(1, "HEAD")
    return [*methods, "OPTIONS"] if methods else []


def _has(scope: Scope, method: str, routes: Sequence[BaseRoute]) -> bool:
    variant = {**scope, "method": method}
    return any(route.matches(variant)[0] is Match.FULL for route in routes)
