"""Which names the API answers to, so that no web page can reach it under its own name.

A page can point its own name at another machine's address (DNS rebinding). The browser then takes
our answers for that page's. That needs a name that a stranger can register in the public DNS. An
address, a name without a dot and the reserved `localhost` and `internal` are no such names.
"""

import ipaddress
import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.error_responses import InvalidHost, UnknownHost, failure_response
from api.routes.health import PROBES
from seg_pipeline.errors import RequestError
from seg_pipeline.settings import Settings, listed

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_.-]{1,253})(?::[0-9]{0,5})?")
_RESERVED = ("localhost", "internal")


class AllowedHosts:
    """ASGI middleware: refuses requests under a name that is not ours, and those without one."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._policy = HostPolicy(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := self._refusal(scope)):
            await failure_response(error.code, str(error))(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> RequestError | None:
        named = Headers(scope=scope).getlist("host")
        if not named and scope["http_version"] == "1.0":
            return None
        if len(named) != 1 or not (match := _HOST.fullmatch(named[0])):
            return InvalidHost()
        # Load balancers ask probes by address, whatever the names are.
        if scope["path"] in PROBES or self._policy.allows(match[1]):
            return None
        return UnknownHost(match[1])


class HostPolicy:
    """The rules of ALLOWED_HOSTS, BASE_URL and API_HOST."""

    def __init__(self, settings: Settings) -> None:
        self._listed = {_plain(host) for host in listed(settings.allowed_hosts)}
        self._own = _plain(urlsplit(settings.base_url or "").hostname or "")
        self._allows_all = "*" in self._listed or not (
            self._listed or is_loopback(settings.api_host)
        )

    def allows(self, host: str) -> bool:
        """Whether a request may come under this name."""
        name = _plain(host)
        if self._allows_all or name == self._own or is_loopback(name):
            return True
        if self._listed:
            return name in self._listed or any(name.endswith(end) for end in self._domains())
        return is_nobodys(name)

    def _domains(self) -> list[str]:
        return [name.removeprefix("*") for name in self._listed if name.startswith(("*.", "."))]


def is_loopback(name: str) -> bool:
    """Whether the name reaches only this machine."""
    address = _address(name)
    return address.is_loopback if address else name.rpartition(".")[2] == "localhost"


def is_nobodys(name: str) -> bool:
    """Whether no stranger can register the name: an address, one label, or a reserved domain."""
    return bool(_address(name)) or "." not in name or name.rpartition(".")[2] in _RESERVED


def _plain(host: str) -> str:
    return host.lower().strip("[]").rstrip(".")


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
