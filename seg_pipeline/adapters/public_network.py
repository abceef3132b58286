"""Connections to public addresses only, for the URLs that clients send.

Such a URL must not make this service reach its own neighbours: the private network, the cloud's
metadata, itself. The name is resolved once, and all its addresses are checked. The connection goes
to a checked address. So neither a redirect nor a second DNS answer leads elsewhere.
"""

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpcore

from seg_pipeline.errors import UrlRefused

MAX_ADDRESSES = 4
"""At most so many of a name's addresses are tried: the others answer no better."""

_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_NOT_FOR_US = tuple(
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's platform, metadata among it, at an address that looks public
        "192.0.0.0/24",  # protocol assignments (RFC 6890)
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "2001::/23",  # Teredo and other protocols' (RFC 2928)
        "2002::/16",  # 6to4 carries an IPv4 address (RFC 3056)
        "3fff::/20",  # documentation (RFC 9637)
    )
)

NAMES_AT_ONCE = 512
"""So many names are looked up at once. An unanswered one holds a thread for up to a minute."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

Resolve = Callable[[str, int], Sequence[str]]
"""The addresses of a host for a port, best first; OSError if there are none."""

Admit = Callable[[str, int], None]
"""Called with a connection's address and port before it is made. Raise to prevent it."""


def is_public(address: str) -> bool:
    """Whether this is the address of a single machine on the public internet.

    Private, loopback, link-local, shared (RFC 6598), multicast, reserved and unspecified addresses
    are not. Of IPv6, global unicast alone is. That leaves out addresses that stand for another:
    IPv4-mapped, NAT64, Teredo and 6to4.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6 and ip not in _GLOBAL_UNICAST:
        return False
    if any(ip in network for network in _NOT_FOR_US if network.version == ip.version):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def is_in(address: str, networks: Iterable[Network]) -> bool:
    """Whether the address is in one of the networks."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    return any(ip in network for network in networks if network.version == ip.version)


def resolve_host(host: str, port: int) -> list[str]:
    """What the system's resolver returns.

    It also reads spellings such as `2130706433` and `0x7f.1`.
    """
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


class Resolver:
    """Looks names up, each in its own thread: the system's resolver has no time limit."""

    def __init__(self, resolve: Resolve = resolve_host, at_once: int = NAMES_AT_ONCE) -> None:
        self._resolve = resolve
        self._free = threading.BoundedSemaphore(at_once)

    async def addresses(self, host: str, port: int, seconds: float | None) -> Sequence[str]:
        """The host's addresses; OSError if there are none.

        Raises TimeoutError if none is known after so many seconds.
        """
        if not self._free.acquire(blocking=False):
            raise OSError("too many names are being looked up")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Sequence[str]] = loop.create_future()
        threading.Thread(
            target=self._run, args=(host, port, loop, answer), name="resolve", daemon=True
        ).start()
        async with asyncio.timeout(seconds):
            return await answer

    def _run(
        self,
        host: str,
        port: int,
        loop: asyncio.AbstractEventLoop,
        answer: "asyncio.Future[Sequence[str]]",
    ) -> None:
        try:
            addresses, problem = self._resolve(host, port), None
        except Exception as error:
            addresses, problem = [], error
        finally:
            self._free.release()
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(_settle, answer, addresses, problem)


def _settle(
    answer: "asyncio.Future[Sequence[str]]", addresses: Sequence[str], problem: Exception | None
) -> None:
    if answer.done():  # nobody waits any more
        return
    if problem is None:
        answer.set_result(addresses)
    else:
        answer.set_exception(problem)


def _admit_all(_address: str, _port: int) -> None:
    pass


@dataclass(frozen=True)
class PublicNetwork(httpcore.AsyncNetworkBackend):
    """Connects to public addresses only, unless private ones are allowed, all or some networks.

    Raises UrlRefused for a host with any other address. The caller limits the whole of a fetch.
    """

    resolver: Resolver
    allow_private: bool = False
    admit: Admit = _admit_all
    networks: Sequence[Network] = ()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A connection to one of the host's checked addresses."""
        failure: Exception = httpcore.ConnectError("the name has no address")
        addresses = (await self._checked_addresses(host, port, timeout))[:MAX_ADDRESSES]
        for address in addresses[:1]:
            self.admit(address, port)
        for address in addresses:
            try:
                return await httpcore.AnyIOBackend().connect_tcp(address, port, timeout)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        """Always refused."""
        raise UrlRefused("a socket of this machine is not for clients to ask.")

    async def sleep(self, seconds: float) -> None:
        """Required by the interface."""
        await asyncio.sleep(seconds)

    async def _checked_addresses(
        self, host: str, port: int, timeout: float | None
    ) -> Sequence[str]:
        try:
            addresses = await self.resolver.addresses(host, port, timeout)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved") from error
        if not self.allow_private and not all(map(self._may_be_asked, addresses)):
            raise UrlRefused(
                f"{host} is not a public address of the internet; send a URL that anybody could"
                " fetch."
            )
        return addresses

    def _may_be_asked(self, address: str) -> bool:
        return is_public(address) or is_in(address, self.networks)
