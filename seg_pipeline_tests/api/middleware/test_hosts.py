"""The API answers under its own names, so that no web page can have it answer under the page's."""

import socket
from typing import Any

import httpx
import pytest

from api.middleware.hosts import HostPolicy
from seg_pipeline_tests.api.serving import Serve
from seg_pipeline_tests.given_settings import GivenSettings

NOBODYS = (
    *(
        "localhost",
        "LOCALHOST.",
        "app.localhost",
        "127.0.0.1",
        "127.8.8.8",
        "[::1]",
        "192.168.1.20",
        "[fd00::1]",
    ),
    *("api", "x", "seg_pipeline", "host.docker.internal"),
)
"""Names that no stranger can point anywhere."""

STRANGERS = (
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.nip.io",
    "a.local",
    "xn--e1afmkfd.com",
    "127.0.0.1.",
)


def policy(**values: Any) -> HostPolicy:
    return HostPolicy(GivenSettings(**values))


@pytest.mark.parametrize("listens_on", ["127.0.0.1", "localhost", "::1"])
def test_on_this_machine_alone_no_name_of_a_stranger_is_taken(listens_on: str) -> None:
    """DNS rebinding: a page's own name that leads to 127.0.0.1 makes our answers readable for
    it."""
    allowed = policy(api_host=listens_on)
    assert all(allowed.allows(name) for name in NOBODYS)
    assert not any(allowed.allows(name) for name in STRANGERS if name != "127.0.0.1.")


def test_base_url_is_a_name_of_ours() -> None:
    allowed = policy(base_url="https://Pictures.example.com:8443/seg")
    assert allowed.allows("pictures.example.com")
    assert not allowed.allows("example.com")


def test_open_to_a_network_every_name_is_taken_unless_they_are_listed() -> None:
    assert all(policy(api_host="0.0.0.0").allows(name) for name in (*NOBODYS, *STRANGERS))
    listed = policy(api_host="0.0.0.0", allowed_hosts="pictures.example.com, *.seg.example.com")
    for name in (
        "pictures.example.com",
        "PICTURES.example.com.",
        "a.seg.example.com",
        "localhost",
        "127.0.0.1",
    ):
        assert listed.allows(name)
    for name in (
        "example.com",
        "seg.example.com",
        "xseg.example.com",
        "evil.example",
        "10.0.0.1",
        "api",
    ):
        assert not listed.allows(name)
    assert all(policy(allowed_hosts="*").allows(name) for name in STRANGERS)


@pytest.mark.parametrize("path", ["/", "/jobs", "/docs", "/assets/a/original.webp", "/nowhere"])
def test_a_page_gets_nothing_under_its_own_name(doorman: httpx.Client, path: str) -> None:
    response = doorman.get(path, headers={"Host": "rebound.evil.example:8000"})
    assert (response.status_code, response.json()["code"]) == (421, "unknown_host")
    assert "seg-pipeline" not in response.text


def test_a_picture_is_not_taken_under_a_strangers_name(doorman: httpx.Client) -> None:
    response = doorman.post("/segment", content=b"x" * 2**20, headers={"Host": "evil.example"})
    assert response.status_code == 421


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/metrics"])
def test_probes_may_come_under_any_name(serve: Serve, path: str) -> None:
    """Load balancers name the pod, the service or nothing that anybody has listed."""
    client = serve(allowed_hosts="pictures.example.com")
    assert client.get(path, headers={"Host": "10.4.0.7:8000"}).status_code != 421
    assert client.get("/jobs", headers={"Host": "10.4.0.7:8000"}).status_code == 421


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        [b"a", b"a"],
        [b"a", b"b"],
        [b""],
        [b"a b"],
        [b"a/b"],
        [b"u@a"],
        [b"a?b"],
        [b"a:port"],
        [b"[::1"],
    ],
)
def test_a_request_names_one_host(doorman: httpx.Client, hosts: list[bytes]) -> None:
    """RFC 9112, 3.2: two readers of such a request could take it for two servers'."""
    lines = b"".join(b"Host: %s\r\n" % host for host in hosts)
    assert answer(doorman, b"GET / HTTP/1.1\r\n%sConnection: close\r\n\r\n" % lines).startswith(
        b"HTTP/1.1 400 "
    )


def test_http_1_0_needs_no_host(doorman: httpx.Client) -> None:
    assert answer(doorman, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def answer(client: httpx.Client, sent: bytes) -> bytes:
    got = b""
    with socket.create_connection(
        (client.base_url.host, client.base_url.port or 0), timeout=20
    ) as wire:
        wire.sendall(sent)
        while received := wire.recv(65536):
            got += received
    return got
