"""Settings that contradict each other, or that nothing could work with, are refused at the start,
each with a sentence that names them."""

from typing import Any

import pytest
from typer.testing import CliRunner

from api.api_keys import ApiKeys
from seg_pipeline.cli.main import app
from seg_pipeline.settings import Settings


def make(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"heartbeat_seconds": 7.5}, r"WORKER_STALE_SECONDS = 15 .* HEARTBEAT_SECONDS = 7\.5"),
        ({"worker_stale_seconds": 4}, "WORKER_STALE_SECONDS = 4 must be more than twice"),
        ({"heartbeat_seconds": 60, "worker_stale_seconds": 15}, "HEARTBEAT_SECONDS = 60"),
        ({"api_rates": "shop=60"}, "API_KEYS, which is not set"),
        ({"api_rates": "shpo=60,*=6", "api_keys": "shop:a"}, "API_RATES names shpo"),
        ({"api_rates": "key-3=60", "api_keys": "a,b"}, "API_RATES names key-3"),
        ({"dagster_proxies": "10.0.0.0/8"}, "DAGSTER_IDENTITY_HEADER, which is not set"),
        ({"s3_access_key": "a"}, "S3_ACCESS_KEY and S3_SECRET_KEY must be set together"),
        ({"max_connections": 1512}, "MAX_CONNECTIONS = 1512 must be more than"),
        ({"app_server_url": "https://app.example/?tenant=1"}, "APP_SERVER_URL must have no query"),
        ({"app_server_url": "https://app.example/seg#here"}, "APP_SERVER_URL must have no query"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    values: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        make(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"heartbeat_seconds": 7.4},
        {"api_rates": "shop=60,key-2=5,*=6", "api_keys": "shop:a,b"},
        {"dagster_proxies": "10.0.0.0/8", "dagster_identity_header": "X-User"},
        {"app_server_url": "https://app.example/seg/"},
    ],
)
def test_settings_that_go_together_are_taken(values: dict[str, Any]) -> None:
    make(**values)


def test_every_name_that_a_key_has_may_have_a_rate() -> None:
    """Names are made elsewhere; here it is checked that both mean the same."""
    keys = "shop:a, plain, two:parts:of"
    settings = make(api_keys=keys, api_rates="shop=1,key-2=1,two=1")
    found = [ApiKeys(settings).find(text) for text in ("a", "plain", "parts:of")]
    assert [key and key.name for key in found] == ["shop", "key-2", "two"]


def test_a_process_says_in_one_line_what_contradicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_SERVER_URL", "https://app.example/?key=sesame")
    monkeypatch.setenv("HEARTBEAT_SECONDS", "2")
    result = CliRunner().invoke(app, ["settings"])
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "APP_SERVER_URL must have no query and no fragment" in line
    assert "sesame" not in line
