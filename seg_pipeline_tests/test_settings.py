"""What follows from settings; those that contradict each other, or that nothing could work with,
are refused at the start, each with a sentence that names them."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from api.api_keys import ApiKeys
from seg_pipeline.cli.main import app
from seg_pipeline.settings import Settings, listed, unknown_names_in_env_file


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
        ({"s3_signed_links": True}, "S3_SIGNED_LINKS needs S3_BUCKET"),
        (
            {"s3_signed_links": True, "s3_bucket": "b", "asset_link_secret": "s"},
            "and no ASSET_LINK_SECRET",
        ),
        (
            {"s3_signed_links": True, "s3_bucket": "b", "asset_link_seconds": 700_000},
            "ASSET_LINK_SECONDS = 700000 must be at most 604800",
        ),
        ({"webhook_hosts": "a.example, https://b.example"}, "names 'https://b.example', which"),
        ({"webhook_hosts": "b.example/hooks"}, "WEBHOOK_HOSTS names 'b.example/hooks'"),
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
        {"s3_signed_links": True, "s3_bucket": "b"},
        {"webhook_hosts": "*.a.example, b, 10.0.0.0/8, fd00::/8, *"},
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


def test_paths_follow_the_data_folder_unless_they_are_named() -> None:
    assert make(data_dir="d").assets_path == Path("d/assets")
    assert make(data_dir="d", assets_dir="a").assets_path == Path("a")
    assert make(data_dir="d").uploads_path == Path("d/uploads")


def test_a_bucket_is_looked_into_less_often_than_a_folder() -> None:
    """Each look into a bucket is billed."""
    assert make(s3_bucket=None).inbox_pause_seconds == 0.05
    assert make(s3_bucket="b").inbox_pause_seconds == 1
    assert make(s3_bucket="b", inbox_poll_seconds=0.5).inbox_pause_seconds == 0.5


def test_links_lead_to_the_public_address() -> None:
    assert make(base_url=None, api_port=8123).public_url == "http://localhost:8123"
    assert make(base_url="https://seg.example").public_url == "https://seg.example"


def test_each_offered_model_is_offered_once() -> None:
    settings = make(model="a", queue_model="b", models=" c, a ,,/w/d.pt")
    assert settings.offered_models == ("a", "b", "c", "/w/d.pt")


@pytest.mark.parametrize(("queue", "models"), [(None, ["a"]), ("https://sqs/q", ["a", "b"])])
def test_the_queues_model_is_wanted_where_there_is_a_queue(
    queue: str | None, models: list[str]
) -> None:
    assert make(model="a", queue_model="b", sqs_queue_url=queue).wanted_models == models


def test_no_secret_is_in_a_repr() -> None:
    secrets = {
        name: "sesame" for name in Settings.model_fields if name.endswith(("_secret", "_password"))
    }
    made = make(**secrets, api_keys="sesame", s3_access_key="sesame", s3_secret_key="sesame")
    assert len(secrets) >= 3
    assert "sesame" not in repr(made)


def test_an_unknown_name_in_the_env_file_is_told_with_the_likeliest_one(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("MAX_IMAGE_BYTE=1\nAPI_PORT=1\nmodel=a\nHTTP_PROXY=p\nAWS_PROFILE=x\nQQQ=1\n")
    about_bytes, about_nothing = unknown_names_in_env_file(file)
    assert about_bytes.endswith(
        "sets MAX_IMAGE_BYTE, which is no setting: did you mean MAX_IMAGE_BYTES?"
    )
    assert "`seg-pipeline settings` lists them" in about_nothing
    assert unknown_names_in_env_file(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("text", "words"), [(None, []), ("", []), (" , ,", []), ("a", ["a"]), (" a , b,", ["a", "b"])]
)
def test_the_words_of_a_list_are_stripped_and_none_is_empty(
    text: str | None, words: list[str]
) -> None:
    assert listed(text) == words
