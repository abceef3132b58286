"""Addresses that clients give with their jobs: which of them are told, and what they get."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from seg_client import is_genuine
from seg_pipeline.adapters.app_server import DeliveryLimits
from seg_pipeline.adapters.public_network import Resolver
from seg_pipeline.adapters.webhooks import WebhookHosts, Webhooks, check_webhook
from seg_pipeline.errors import WebhookRefused
from seg_pipeline.jobs.answer_schema import make_schema
from seg_pipeline.jobs.answers import callback
from seg_pipeline.jobs.deliveries import Reply
from seg_pipeline.settings import Settings
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline.store.serialization import to_document
from seg_pipeline_tests.app_servers import app_server, say
from seg_pipeline_tests.builders import make_result
from seg_pipeline_tests.conftest import make_settings

HERE = "127.0.0.0/8"
DOCUMENT = to_document(callback(make_result(), ObjectStore.in_memory(), "http://here"))


def settings_with(hosts: str | None, **values: Any) -> Settings:
    return make_settings(Path("nowhere"), webhook_hosts=hosts, **values)


def tell(url: str, hosts: str, addresses: Sequence[str] | None = None, **values: Any) -> Reply:
    """Tells a webhook once; all names have these addresses, if any are given."""
    resolver = Resolver(lambda host, port: addresses) if addresses else None
    webhooks = Webhooks(settings_with(hosts, **values), DeliveryLimits(5), resolver=resolver)

    async def send() -> Reply:
        async with webhooks.session() as session:
            return await session.tell(url, DOCUMENT)

    return asyncio.run(send())


@pytest.mark.parametrize(
    ("hosts", "allowed", "refused"),
    [
        ("hooks.example.com", ["hooks.example.com", "HOOKS.example.com."], ["example.com", "a.b"]),
        ("*.example.com", ["a.example.com", "a.b.example.com"], ["example.com", "aexample.com"]),
        ("*", ["anything.at.all", "93.184.216.34"], ["127.0.0.1", "10.0.0.1", "::1"]),
        ("10.0.0.0/8", ["10.1.2.3"], ["11.0.0.1", "ten.example"]),
        ("a.example, 127.0.0.1", ["a.example", "127.0.0.1"], ["127.0.0.2", "b.example"]),
        ("fd00::/8", ["fd00::1"], ["fe80::1", "10.0.0.1"]),
        ("", [], ["a.example", "127.0.0.1"]),
    ],
)
def test_the_hosts_that_are_listed_are_allowed_and_no_others(
    hosts: str, allowed: list[str], refused: list[str]
) -> None:
    known = WebhookHosts(settings_with(hosts))
    assert [host for host in (*allowed, *refused) if known.allow(host)] == allowed


def test_without_the_setting_no_webhook_is_taken_and_the_refusal_says_so() -> None:
    with pytest.raises(WebhookRefused, match="WEBHOOK_HOSTS is not set"):
        check_webhook("https://hooks.example.com/a", settings_with(None))


@pytest.mark.parametrize(
    "url",
    [
        "", "a", "ftp://hooks.example.com/", "https://", "https:///a", "//hooks.example.com/a",
        "https://user:secret@hooks.example.com/", "https://hooks.example.com/#a",
        "https://hooks.example.com:99999/", "https://hooks.example.com/a b",
        "https://hooks.example.com/\n", "https://hooks.example.com\\@evil.example/",
        "https://evil.example/?hooks.example.com", "https://hooks.example.com.evil.example/",
        "https://hooks.example.com/" + "a" * 2048, "https://xn--/", "https://ä.example/",
    ],
)  # fmt: skip
def test_what_is_no_allowed_address_is_refused_in_a_sentence(url: str) -> None:
    with pytest.raises(WebhookRefused, match=r"^webhook: .*\.$"):
        check_webhook(url, settings_with("hooks.example.com"))


def test_an_address_may_have_a_port_a_path_and_a_query() -> None:
    url = "https://hooks.example.com:8443/a/b?token=c"
    assert check_webhook(url, settings_with("hooks.example.com")) == url


def test_a_webhook_gets_what_the_app_server_would_get_with_a_signature_that_the_client_checks() -> (
    None
):
    secrets = {
        "webhook_secret": "of webhooks",
        "callback_secret": "other",
        "app_server_api_key": "k",
    }
    with app_server() as server:
        reply = tell(f"{server.url}/hooks/a?token=b", HERE, **secrets)
    (told,) = server.told
    assert (reply.is_delivered, told.path, told.document) == (True, "/hooks/a?token=b", DOCUMENT)
    assert is_genuine("of webhooks", told.headers, told.body)
    assert not is_genuine("of webhooks", told.headers, told.body + b" ")
    assert not is_genuine("other", told.headers, told.body)
    assert "x-api-key" not in told.headers
    schema = make_schema()
    jsonschema.validate(
        json.loads(told.body), {**schema["$defs"]["callback"], "$defs": schema["$defs"]}
    )


def test_without_a_secret_nothing_is_signed() -> None:
    with app_server() as server:
        tell(server.url, HERE, callback_secret="of the app server's")
    assert "x-signature" not in server.told[0].headers


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fd00::1"])
def test_a_listed_name_with_a_private_address_is_not_connected_to(address: str) -> None:
    """As a name's owner may have it from one moment to the next (DNS rebinding)."""
    with app_server() as server:
        port = server.url.rpartition(":")[2]
        reply = tell(f"http://hooks.example.com:{port}/", "hooks.example.com", [address])
    assert (reply.is_final, reply.status, server.told) == (True, None, [])
    assert "not a public address" in (reply.problem or "")


def test_a_private_address_among_public_ones_is_enough_for_a_refusal() -> None:
    reply = tell("http://hooks.example.com/", "*", ["93.184.216.34", "127.0.0.1"])
    assert reply.is_final


def test_a_private_address_that_is_listed_is_connected_to() -> None:
    with app_server() as server:
        port = server.url.rpartition(":")[2]
        url = f"http://hooks.example.com:{port}/"
        assert tell(url, f"hooks.example.com, {HERE}", ["127.0.0.1"]).is_delivered


def test_a_redirect_is_not_followed() -> None:
    with app_server() as other, app_server(say(307, location=f"{other.url}/private")) as server:
        reply = tell(server.url, HERE)
    assert (reply.is_delivered, reply.is_final, reply.status) == (False, False, 307)
    assert reply.problem
    assert "which is not followed" in reply.problem
    assert other.told == []


def test_an_address_that_is_no_longer_allowed_is_not_told() -> None:
    with app_server() as server:
        reply = tell(server.url, "hooks.example.com")
    assert (reply.is_final, server.told) == (True, [])
    assert "any more" in (reply.problem or "")


def test_what_a_webhook_answers_is_told_of_a_webhook() -> None:
    with app_server(say(500)) as server:
        assert (tell(server.url, HERE).problem or "").startswith("the webhook answered 500")
