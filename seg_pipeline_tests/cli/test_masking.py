"""What `seg-pipeline settings` prints holds no secret, however it is written."""

from collections.abc import Iterator, Sequence

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from seg_pipeline.cli.main import app
from seg_pipeline.cli.masking import MASK, shown, shown_address

SECRET_ADDRESSES = (
    "postgresql://me:sesame@db/runs",
    "postgresql+psycopg2://me:sesame@[::1]:5432/runs",
    "postgresql://me:@sesame@db/r",
    "postgresql://me:ses/ame@db/runs",
    "postgresql://me:x/sesame@db/runs",
    "postgresql://me:ses@ame@db/runs",
    "postgresql://me:sesame/@db/runs",
    "postgresql://me:123/sesame@db/runs",
    "postgresql://me:se%40sesame@db/runs",
    "postgresql://me:x#sesame@db/runs",
    "postgresql://me:x?sesame@db/runs",
    "postgresql://me:sesame x@db/runs",
    "postgresql://db/runs?user=me&password=sesame",
    "postgresql://db/runs?password=x/sesame&sslmode=require",
    "postgresql://db/runs?password=x@sesame",
    "postgresql://me@db/runs?sslpassword=sesame",
    "postgresql://db/?passfile=sesame",
    "postgresql://db/runs?sslmode=require&PASSWORD=sesame",
    "postgresql://db/runs?sesame",
    "postgresql://db/runs#sesame",
    "redis://:sesame@cache:6379/0",
    "redis://sesame@cache:6379/0",
    "rediss://:x/sesame@cache/0",
    "redis://cache/0?password=sesame",
    "sentinel://:sesame@a:26379;sentinel://:sesame@b:26379",
    "redis+socket:///tmp/redis.sock?password=sesame",
    "amqp://sesame:@cache//",
    "https://key:sesame@app.example.com/base/",
    "host=db password=sesame",
    "db:sesame@host",
)
PLAIN_ADDRESSES = (
    "postgresql://db:5432/runs?sslmode=require",
    "postgresql://a:5432,b:5432/runs",
    "redis://cache:6379/0",
    "https://sqs.eu-west-1.amazonaws.com/123456789012/jobs",
    "http://localhost:8000",
    "https://a.example.com/seg",
)


@pytest.mark.parametrize("address", SECRET_ADDRESSES)
def test_no_password_in_an_address_is_shown(address: str) -> None:
    assert "sesame" not in shown_address(address).replace("ses/ame", "sesame").replace(
        "ses@ame", "sesame"
    )
    assert "ame@" not in shown_address(address)
    assert MASK in shown_address(address)


@pytest.mark.parametrize("address", PLAIN_ADDRESSES)
def test_an_address_without_secrets_is_shown_whole(address: str) -> None:
    assert shown_address(address) == address


def test_of_an_address_with_a_password_the_rest_is_shown() -> None:
    assert shown_address("postgresql://me:sesame@db:5432/runs?sslmode=require") == (
        f"postgresql://{MASK}@db:5432/runs?sslmode=require"
    )


def test_secrets_are_masked_and_what_is_unset_is_a_dash() -> None:
    assert shown("api_keys", SecretStr("sesame")) == MASK
    assert shown("base_url", None) == "-"
    assert shown("model", "models/a@b.pt") == "models/a@b.pt"


def test_the_command_shows_none_either(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("DATABASE_URL", "BROKER_URL", "S3_ENDPOINT_URL")
    monkeypatch.setenv("COLUMNS", "300")
    for some in batched(SECRET_ADDRESSES, len(names)):
        for name, address in zip(names, some, strict=True):
            monkeypatch.setenv(name, address)
        printed = "".join(CliRunner().invoke(app, ["settings"]).stdout.split())
        assert "sesame" not in printed
        assert printed.count(MASK) >= len(names)


def batched(values: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """The values, so many at once."""
    return (values[start : start + size] for start in range(0, len(values), size))
