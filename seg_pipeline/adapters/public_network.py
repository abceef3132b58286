"""Which addresses of the network may be asked on a client's behalf, and connections that go to no others.

A URL that a client sends must not make this service ask its own neighbours: other machines of the private network,
the cloud's metadata, itself. The name is resolved once, all its addresses are checked, and the connection goes to an
address that was checked, so neither a redirect nor a second DNS answer leads elsewhere.
"""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import httpcore

from seg_pipeline.errors import UrlRefused

MAX_ADDRESSES = 4
"""So many of a name's addresses are tried; the others answer no better."""

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

Resolve = Callable[[str, int], Sequence[str]]
"""The addresses of a host for a port, best first; OSError if there are none."""


def is_public(address: str) -> bool:
    """Whether this is a single machine's address on the public internet, in plain sight.

    Not private, loopback, link-local, shared (RFC 6598), multicast, reserved or unspecified; of IPv6 global unicast
    alone, which leaves out those that stand for another address: IPv4-mapped, NAT64, Teredo and 6to4.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6 and ip not in _GLOBAL_UNICAST:
        return False
    if any(ip in network for network in _NOT_FOR_US if network.version == ip.version):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def resolve_host(host: str, port: int) -> list[str]:
    """What the system's resolver says, which also reads spellings such as `2130706433` and `0x7f.1`."""
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


@dataclass(frozen=True)
class PublicNetwork(httpcore.NetworkBackend):
    """Connects to public addresses alone, and lets nothing last past `give_up_at` on the monotonic clock.

    Raises UrlRefused for a host with any other address, unless private ones are allowed.
    """

    give_up_at: float
    resolve: Resolve = resolve_host
    allow_private: bool = False

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to one of the host's checked addresses."""
        failure: Exception = httpcore.ConnectError("the name has no address")
        for address in self._checked_addresses(host, port, timeout)[:MAX_ADDRESSES]:
            try:
                stream = httpcore.SyncBackend().connect_tcp(address, port, self._left(timeout))
                return _Bounded(stream, self.give_up_at)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.NetworkStream:
        """Never."""
        raise UrlRefused("a socket of this machine is not for clients to ask.")

    def sleep(self, seconds: float) -> None:
        """Part of the interface."""
        time.sleep(seconds)

    def _checked_addresses(self, host: str, port: int, timeout: float | None) -> Sequence[str]:
        try:
            addresses = _within(self._left(timeout), lambda: self.resolve(host, port))
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved") from error
        if not self.allow_private and not all(is_public(address) for address in addresses):
            raise UrlRefused(f"{host} is not a public address of the internet; send a URL that anybody could fetch.")
        return addresses

    def _left(self, timeout: float | None) -> float:
        return _seconds_left(self.give_up_at, timeout, httpcore.ConnectTimeout)


class _Bounded(httpcore.NetworkStream):
    """A stream of which no operation lasts past `give_up_at`: a server that sends a byte now and then ends too."""

    def __init__(self, stream: httpcore.NetworkStream, give_up_at: float) -> None:
        self._stream = stream
        self._give_up_at = give_up_at

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _seconds_left(self._give_up_at, timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _seconds_left(self._give_up_at, timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = _seconds_left(self._give_up_at, timeout, httpcore.ConnectTimeout)
        return _Bounded(self._stream.start_tls(ssl_context, server_hostname, left), self._give_up_at)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _seconds_left(give_up_at: float, timeout: float | None, expired: type[Exception]) -> float:
    left = give_up_at - time.monotonic()
    if left <= 0:
        raise expired("the time for all of it is over")
    return left if timeout is None else min(left, timeout)


def _within(seconds: float, call: Callable[[], Sequence[str]]) -> Sequence[str]:
    """What the call gives, or TimeoutError (an OSError); the system's resolver knows no time limit of its own."""
    done: Future[Sequence[str]] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=run, name="resolve", daemon=True).start()
    return done.result(seconds)
