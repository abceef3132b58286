"""What may reach Dagster's UI.

Dagster itself checks neither Host nor Origin, and asks for no password. A page in an operator's
browser could so delete runs and wipe assets. The order of the rules matters: only a request to our
own name, from our own pages, is asked for a password.
"""

import base64
import binascii
import hmac
import json
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, Self
from urllib.parse import parse_qs

from graphql import GraphQLError, OperationDefinitionNode, OperationType, parse

from seg_pipeline.domain import UUID_PATTERN
from seg_pipeline.settings import Settings, listed

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
LOOPBACK_NETWORKS = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
OPEN_PATH = "/server_info"
"""Only versions: health checks read them, and have no password."""

_READS = ("GET", "HEAD", "OPTIONS")
_ANY_ADDRESS = ("0.0.0.0", "::", "")
_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^\s:@/?#\[\]]+)(:(?P<port>[0-9]{1,5}))?")
_JOB_PATH = re.compile(rf"/job/(?P<uuid>{UUID_PATTERN})")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_NO_FRAMES = [
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
]


@dataclass(frozen=True)
class Refusal:
    """Why a request is refused: an HTTP status and a sentence."""

    status: int
    sentence: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True)
class Authority:
    """The host and the port of a Host header or an origin.

    The host is in lower case and without brackets.
    """

    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> "Authority | None":
        """Parses `host:port`; None if the text is not of that form."""
        match = _AUTHORITY.fullmatch(text)
        if match is None:
            return None
        port = int(match["port"]) if match["port"] else None
        return cls(match["host"].strip("[]").lower(), port)


@dataclass(frozen=True)
class UiRequest:
    """What the rules read of a request or of a websocket's handshake."""

    scope: Scope

    @property
    def is_websocket(self) -> bool:
        """Whether it opens a websocket."""
        return bool(self.scope["type"] == "websocket")

    @property
    def method(self) -> str:
        """The method; GET for a websocket's handshake."""
        return str(self.scope.get("method", "GET"))

    @property
    def path(self) -> str:
        """The decoded path, without the query."""
        return str(self.scope["path"])

    @property
    def peer(self) -> str:
        """The address at the other end of the connection."""
        return str((self.scope.get("client") or ("",))[0])

    @cached_property
    def queries(self) -> list[str]:
        """The `query` parameters of the URL."""
        text = self.scope.get("query_string", b"").decode("latin-1")
        return parse_qs(text, keep_blank_values=True).get("query", [])

    @cached_property
    def authority(self) -> Authority | None:
        """The Host header; None if there is not exactly one valid one."""
        values = self.header("host")
        return Authority.parse(values[0]) if len(values) == 1 else None

    @property
    def changes_something(self) -> bool:
        """Whether Dagster may change something because of it. A websocket may carry any request."""
        return self.is_websocket or self.method not in _READS

    def header(self, name: str) -> list[str]:
        """Every value of a header, whose name is given in lower case."""
        wanted = name.encode("latin-1")
        return [
            value.decode("latin-1").strip()
            for key, value in self.scope["headers"]
            if key.lower() == wanted
        ]


@dataclass(frozen=True)
class UiRules:
    """Whom the UI serves.

    `hosts` are the names that reach it. `identity_header` is the header in which a trusted proxy
    names the user.
    """

    hosts: frozenset[str] = LOOPBACK_HOSTS
    password: str | None = None
    identity_header: str | None = None
    proxies: tuple[IPv4Network | IPv6Network, ...] = LOOPBACK_NETWORKS

    @classmethod
    def of(cls, settings: Settings, bind_host: str) -> Self:
        """The rules for a UI that listens on this address."""
        named = {
            host.strip("[]").lower()
            for host in (*listed(settings.dagster_allowed_hosts), bind_host)
        }
        password, header = settings.dagster_password, settings.dagster_identity_header
        return cls(
            hosts=LOOPBACK_HOSTS | (named - set(_ANY_ADDRESS)),
            password=password.get_secret_value().strip() if password else None,
            identity_header=header.lower() if header else None,
            proxies=(*LOOPBACK_NETWORKS, *map(ip_network, listed(settings.dagster_proxies))),
        )

    def refusal(self, request: UiRequest) -> Refusal | None:
        """Why the request is refused; None if it may pass."""
        return (
            self._foreign_host(request)
            or _foreign_page(request)
            or self._unknown_user(request)
            or _mutation_by_get(request)
            or _form(request)
        )

    def _foreign_host(self, request: UiRequest) -> Refusal | None:
        """Refuses other names: with DNS rebinding, a hostile page's own name stands in Host."""
        if request.authority and request.authority.host in self.hosts:
            return None
        host = ", ".join(request.header("host"))[:100]
        return Refusal(
            403, f"The UI does not answer to the host {host!r}; DAGSTER_ALLOWED_HOSTS can name it."
        )

    def _unknown_user(self, request: UiRequest) -> Refusal | None:
        is_open = self.password is None and self.identity_header is None
        if (
            is_open
            or request.path == OPEN_PATH
            or self._has_password(request)
            or self._is_named_by_proxy(request)
        ):
            return None
        if self.password is None:
            return Refusal(
                403, f"The proxy before the UI has to say who this is, in {self.identity_header}."
            )
        challenge = (b"www-authenticate", b'Basic realm="Dagster", charset="UTF-8"')
        return Refusal(401, "The UI asks for DAGSTER_PASSWORD, with any name.", (challenge,))

    def _has_password(self, request: UiRequest) -> bool:
        given = _basic_password(request.header("authorization"))
        if self.password is None or given is None:
            return False
        return hmac.compare_digest(given, self.password.encode())

    def _is_named_by_proxy(self, request: UiRequest) -> bool:
        """Whether a trusted proxy names the user."""
        if self.identity_header is None or not any(request.header(self.identity_header)):
            return False
        try:
            peer = ip_address(request.peer.partition("%")[0])
        except ValueError:
            return False
        return any(peer in network for network in self.proxies)


class UiGuard:
    """An ASGI application behind the rules. No other page can show its answers in a frame."""

    def __init__(self, app: App, rules: UiRules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request = UiRequest(scope)
        refusal = self._rules.refusal(request)
        if refusal is None and (page := _page_of_job(request)):
            await _send_elsewhere(page, send)
            return
        if refusal is None:
            await self._app(scope, receive, _without_frames(send))
            return
        logger.warning(
            "the UI refused %s %.200r: %s", request.method, request.path, refusal.sentence
        )
        await _refuse(request, refusal, send)


def _page_of_job(request: UiRequest) -> str | None:
    """Where the UI shows the job that `/job/{uuid}` names; None for any other path."""
    match = _JOB_PATH.fullmatch(request.path)
    if match is None:
        return None
    root = request.scope.get("root_path", "")
    return f"{root}/assets/result?view=partitions&partition={match['uuid']}"


def _foreign_page(request: UiRequest) -> Refusal | None:
    """Refuses what another site's page requests, except a link that opens a page of the UI.

    A browser names the page that a request comes from. Other clients name none, and pass.
    """
    sites, origins = set(request.header("sec-fetch-site")), request.header("origin")
    is_ours = sites <= {"same-origin", "none"} and all(
        _is_same_origin(each, request) for each in origins
    )
    if is_ours or (not request.changes_something and not origins and _opens_page(request)):
        return None
    return Refusal(403, "The UI does nothing at the request of another site's page.")


def _is_same_origin(origin: str, request: UiRequest) -> bool:
    """Whether the origin is the address that the request went to.

    The scheme is not compared: behind a proxy with TLS this side sees http.
    """
    scheme, _, authority = origin.partition("://")
    theirs, ours, default = (
        Authority.parse(authority),
        request.authority,
        _DEFAULT_PORTS.get(scheme),
    )
    if theirs is None or ours is None or default is None:
        return False
    return (theirs.host, theirs.port or default) == (ours.host, ours.port or default)


def _opens_page(request: UiRequest) -> bool:
    """Whether a link was followed in a tab of its own."""
    return request.header("sec-fetch-mode") == ["navigate"] and request.header(
        "sec-fetch-dest"
    ) == ["document"]


def _mutation_by_get(request: UiRequest) -> Refusal | None:
    """Refuses mutations by GET: a URL in a link, a picture or a preview must change nothing."""
    if request.changes_something or not any(map(_has_mutation, request.queries)):
        return None
    return Refusal(405, "A mutation is sent by POST.", ((b"allow", b"POST"),))


def _has_mutation(query: str) -> bool:
    try:
        definitions = parse(query).definitions
    except GraphQLError:
        return False  # Dagster cannot read it either, and says why
    operations = (each for each in definitions if isinstance(each, OperationDefinitionNode))
    return any(each.operation is OperationType.MUTATION for each in operations)


def _form(request: UiRequest) -> Refusal | None:
    """Refuses bodies other than JSON, which another site's page cannot send without asking.

    Dagster itself takes any content type that contains the word.
    """
    types = [value.partition(";")[0].strip().lower() for value in request.header("content-type")]
    if request.method in _READS or types == ["application/json"]:
        return None
    return Refusal(415, "What changes anything is sent as application/json.")


def _basic_password(values: list[str]) -> bytes | None:
    """The password of an Authorization header (RFC 7617); None without one."""
    scheme, _, credentials = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    if scheme.lower() != "basic":
        return None
    try:
        _, colon, password = base64.b64decode(credentials.strip(), validate=True).partition(b":")
    except binascii.Error:
        return None
    return password if colon else None


def _without_frames(send: Send) -> Send:
    """Forbids frames: a page that frames the UI could lead an operator's clicks (clickjacking)."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_NO_FRAMES]
        await send(message)

    return send_with_headers


async def _send_elsewhere(path: str, send: Send) -> None:
    headers = [(b"location", path.encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 307, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _refuse(request: UiRequest, refusal: Refusal, send: Send) -> None:
    if request.is_websocket:
        # Before the handshake: 403.
        await send({"type": "websocket.close", "code": 1008, "reason": refusal.sentence})
        return
    body = json.dumps({"error": refusal.sentence}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        *refusal.headers,
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
