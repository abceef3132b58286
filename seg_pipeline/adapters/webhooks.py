"""Webhooks: addresses that clients give with jobs and batches, told of their ends.

WEBHOOK_HOSTS says which hosts they may be at. A name reaches public addresses alone, whatever it
resolves to: private ones must be listed as such. Redirects are not followed.
"""

import ipaddress
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import httpcore
import httpx

from seg_pipeline.adapters.app_server import (
    LIMITS,
    AppServer,
    DeliveryLimits,
    Session,
    text_of,
)
from seg_pipeline.adapters.public_network import Network, PublicNetwork, Resolver, is_in, is_public
from seg_pipeline.adapters.trust import ssl_context
from seg_pipeline.domain import MAX_WEBHOOK_LENGTH, Job
from seg_pipeline.errors import UrlRefused, WebhookRefused
from seg_pipeline.jobs.batch_records import Batch
from seg_pipeline.settings import Settings, listed

_UNPRINTABLE = re.compile(r"[^!-~]|\\")


class WebhookHosts:
    """The hosts of WEBHOOK_HOSTS: names, endings of names, and networks."""

    def __init__(self, settings: Settings) -> None:
        words = [word.lower() for word in listed(settings.webhook_hosts)]
        networks = {word: _network(word) for word in words}
        self.networks = tuple(network for network in networks.values() if network)
        self._names = {word for word in words if not networks[word]}

    @property
    def are_none(self) -> bool:
        """Whether no webhook is allowed at all."""
        return not (self._names or self.networks)

    def allow(self, host: str) -> bool:
        """Whether a webhook may be at this host, by its name or its address."""
        name = host.lower().rstrip(".")
        with suppress(ValueError):
            return is_in(name, self.networks) or ("*" in self._names and is_public(name))
        endings = (entry[1:] for entry in self._names if entry.startswith("*."))
        return name in self._names or "*" in self._names or name.endswith(tuple(endings))


def check_webhook(url: str, settings: Settings) -> str:
    """The address, if a webhook may be there; else WebhookRefused. Uses no network."""
    hosts = WebhookHosts(settings)
    if hosts.are_none:
        raise WebhookRefused("this service tells no webhooks: WEBHOOK_HOSTS is not set.")
    host = _host(url)
    if not hosts.allow(host):
        raise WebhookRefused(f"webhook: WEBHOOK_HOSTS does not name {host[:200]}.")
    return url


class Webhooks(AppServer):
    """Where the ends of jobs and batches with a webhook go, with WEBHOOK_SECRET, without a key."""

    called = "the webhook"
    method = "POST"

    def __init__(
        self,
        settings: Settings,
        limits: DeliveryLimits = LIMITS,
        clock: Callable[[], float] = time.time,
        resolver: Resolver | None = None,
    ) -> None:
        super().__init__(settings, limits, clock)
        self._api_key, self._secret = "", text_of(settings.webhook_secret)
        self._hosts = WebhookHosts(settings)
        self._resolver = resolver or Resolver()

    def name_of(self, job: Job) -> str:
        """The address itself."""
        return job.webhook or ""

    def name_of_batch(self, batch: Batch) -> str:
        """The address itself."""
        return batch.webhook or ""

    def url(self, uuid: str) -> str:
        """The address, which is the name here. Raises UrlRefused if it is not allowed any more."""
        if not self._hosts.allow(_host(uuid)):
            raise UrlRefused(f"WEBHOOK_HOSTS does not name {_host(uuid)[:200]} any more.")
        return uuid

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Connections to allowed addresses alone."""
        network = PublicNetwork(self._resolver, networks=self._hosts.networks)
        async with httpx.AsyncClient(
            transport=_Checked(network), timeout=None, trust_env=False, follow_redirects=False
        ) as client:
            yield Session(client, self)


class _Checked(httpx.AsyncHTTPTransport):
    """httpx's transport over a network that checks addresses before it connects to them."""

    def __init__(self, network: PublicNetwork) -> None:
        super().__init__(verify=ssl_context(), trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(ssl_context(), network_backend=network)


def _host(url: str) -> str:
    """The address's host. Raises WebhookRefused if it is no address that can be told."""
    if len(url) > MAX_WEBHOOK_LENGTH or _UNPRINTABLE.search(url):
        raise WebhookRefused(
            f"webhook: an address has at most {MAX_WEBHOOK_LENGTH} printable characters of ASCII,"
            " and no backslash."
        )
    try:
        parsed = httpx.URL(url)
        host, port = parsed.host, parsed.port
    except (httpx.InvalidURL, UnicodeError) as error:
        raise WebhookRefused("webhook: this is no address.") from error
    if parsed.scheme not in ("http", "https") or not host:
        raise WebhookRefused("webhook: an address begins with http:// or https:// and a host.")
    if parsed.userinfo or parsed.fragment or (port is not None and not 1 <= port <= 65535):
        raise WebhookRefused(
            "webhook: an address has no user name, no fragment and a port from 1 to 65535."
        )
    return host


def _network(word: str) -> Network | None:
    """The network that an entry names; None if it is a name."""
    with suppress(ValueError):
        return ipaddress.ip_network(word, strict=False)
    return None
