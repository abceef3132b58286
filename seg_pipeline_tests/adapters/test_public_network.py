import asyncio
import ipaddress
import socket
import threading
from collections.abc import Sequence

import httpcore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg_pipeline.adapters.public_network import PublicNetwork, Resolver, is_public, resolve_host
from seg_pipeline.errors import UrlRefused

PUBLIC = ["93.184.216.34", "8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001:830::200e"]

NOT_PUBLIC = {
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "unspecified": ["0.0.0.0", "0.1.2.3", "::"],
    "private": [
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "fc00::1",
        "fd12:3456::1",
    ],
    "link-local": ["169.254.0.1", "fe80::1", "fe80::1%eth0"],
    "metadata": [
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "fd00:ec2::254",
    ],
    "shared (CGNAT)": ["100.64.0.1", "100.127.255.254"],
    "multicast": ["224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1"],
    "reserved": ["240.0.0.1", "255.255.255.255", "192.0.0.8", "192.88.99.1", "100::1", "5f00::1"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"],
    "benchmarking": ["198.18.0.1", "2001:2::1"],
    "site-local": ["fec0::1"],
    "IPv4-mapped": ["::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:7f00:1"],
    "IPv4-compatible": ["::127.0.0.1", "::8.8.8.8"],
    "NAT64": ["64:ff9b::7f00:1", "64:ff9b::8.8.8.8", "64:ff9b:1::a00:1"],
    "6to4": ["2002:7f00:1::", "2002:a00:1::1", "2002:808:808::1"],
    "Teredo": ["2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001::1"],
}


@pytest.mark.parametrize("address", PUBLIC)
def test_machines_on_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("kind", "address"),
    [(kind, address) for kind, addresses in NOT_PUBLIC.items() for address in addresses],
)
def test_all_else_is_not(kind: str, address: str) -> None:
    assert not is_public(address), kind


@given(st.ip_addresses(v=4))
def test_whatever_the_library_calls_private_is_not_public(address: ipaddress.IPv4Address) -> None:
    if address.is_private or address.is_multicast or address.is_reserved or address.is_link_local:
        assert not is_public(str(address))


@given(st.ip_addresses(v=4))
def test_no_ipv4_address_is_reached_in_the_dress_of_an_ipv6_one(
    address: ipaddress.IPv4Address,
) -> None:
    number = int(address)
    for prefix, shift in (("::", 0), ("::ffff:0:0", 0), ("64:ff9b::", 0), ("2002::", 80)):
        assert not is_public(
            str(ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | number << shift))
        )


@pytest.mark.parametrize(
    "spelling",
    [
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "0",
        "127.0.0.1",
        "::1",
        "::ffff:7f00:1",
    ],
)
def test_other_spellings_of_a_local_address_are_read_as_it(spelling: str) -> None:
    """The resolver knows more spellings than any pattern here would; so its answer is what is
    checked."""
    network = PublicNetwork(Resolver())
    with pytest.raises(UrlRefused, match="is not a public address"):
        connect(network, spelling, 80)


def connect(network: PublicNetwork, host: str, port: int, timeout: float | None = None) -> str:
    """Connects and leaves; the address at the other end."""

    async def visit() -> str:
        stream = await network.connect_tcp(host, port, timeout)
        address = str(stream.get_extra_info("server_addr")[0])
        await stream.aclose()
        return address

    return asyncio.run(visit())


def network_that_resolves_to(
    *addresses: str, allow_private: bool = False
) -> tuple[PublicNetwork, list[str]]:
    asked: list[str] = []

    def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return addresses

    return PublicNetwork(Resolver(resolve), allow_private), asked


def test_one_private_answer_among_public_ones_is_enough_to_refuse() -> None:
    network, _ = network_that_resolves_to("93.184.216.34", "2606:4700:4700::1111", "10.0.0.1")
    with pytest.raises(UrlRefused, match=r"two-faced\.example is not a public address"):
        connect(network, "two-faced.example", 80)


def test_a_refusal_does_not_tell_what_the_name_resolves_to() -> None:
    network, _ = network_that_resolves_to("10.20.30.40")
    with pytest.raises(UrlRefused) as refusal:
        connect(network, "intranet.example", 80)
    assert "10.20.30.40" not in str(refusal.value)


def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        network, asked = network_that_resolves_to("127.0.0.1", allow_private=True)
        assert (
            connect(network, "pictures.example", server.getsockname()[1], timeout=5) == "127.0.0.1"
        )
        assert asked == ["pictures.example"]


def test_an_address_that_does_not_answer_is_followed_by_the_next() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        network, _ = network_that_resolves_to("127.0.0.2", "127.0.0.1", allow_private=True)
        assert (
            connect(network, "pictures.example", server.getsockname()[1], timeout=5) == "127.0.0.1"
        )


@pytest.mark.parametrize(
    "failure", [socket.gaierror(-2, "unknown"), UnicodeError("label too long")]
)
def test_a_name_without_an_address_is_a_failed_connection(failure: Exception) -> None:
    def resolve(host: str, port: int) -> Sequence[str]:
        raise failure

    with pytest.raises(httpcore.ConnectError, match=r"nowhere\.example cannot be resolved"):
        connect(PublicNetwork(Resolver(resolve)), "nowhere.example", 80)


def test_a_name_that_resolves_to_nothing_is_a_failed_connection() -> None:
    network, _ = network_that_resolves_to()
    with pytest.raises(httpcore.ConnectError):
        connect(network, "empty.example", 80)


def test_a_resolver_that_hangs_is_left_behind() -> None:
    release = threading.Event()

    def resolve(host: str, port: int) -> Sequence[str]:
        release.wait()
        return []

    try:
        with pytest.raises(httpcore.ConnectError, match="cannot be resolved"):
            connect(PublicNetwork(Resolver(resolve)), "slow.example", 80, timeout=0.05)
    finally:
        release.set()


def test_only_so_many_names_are_looked_up_at_once() -> None:
    """A server of names that hangs keeps threads, and there is an end to those."""
    release = threading.Event()
    resolver = Resolver(lambda *_: [str(release.wait())], at_once=2)

    async def look_up(seconds: float) -> None:
        await resolver.addresses("slow.example", 80, seconds)

    try:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                asyncio.run(look_up(0.01))
        with pytest.raises(OSError, match="too many names"):
            asyncio.run(look_up(30))
    finally:
        release.set()


def test_who_says_no_prevents_the_connection() -> None:
    class Busy(Exception):
        pass

    def admit(address: str, port: int) -> None:
        raise Busy(f"{address} {port}")

    network = PublicNetwork(Resolver(lambda *_: ["127.0.0.1"]), allow_private=True, admit=admit)
    with pytest.raises(Busy, match=r"127\.0\.0\.1 80"):
        connect(network, "pictures.example", 80)


def test_sockets_of_this_machine_are_refused() -> None:
    with pytest.raises(UrlRefused):
        asyncio.run(PublicNetwork(Resolver()).connect_unix_socket("/run/docker.sock"))


def test_the_systems_resolver_gives_each_address_once() -> None:
    assert resolve_host("127.0.0.1", 80) == ["127.0.0.1"]
