"""What doctor finds of disk, store, clock, queue and app server: real ones, right and wrong."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest

from seg_pipeline.cli.checks_here import Wrong
from seg_pipeline.cli.checks_outside import (
    MAX_SKEW,
    check_app_server,
    check_clock,
    check_data_dir,
    check_queue,
    check_server,
    check_store,
    clock_skew,
    skew,
)
from seg_pipeline.settings import Settings
from seg_pipeline.store import Store, keys
from seg_pipeline_tests.aws import REGION
from seg_pipeline_tests.conftest import make_settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_folder_with_room_is_good_and_one_without_is_explained(tmp_path: Path) -> None:
    assert "can be written" in check_data_dir(make_settings(tmp_path))
    with pytest.raises(Wrong, match="uploads get 503; make room"):
        check_data_dir(make_settings(tmp_path, min_free_bytes=2**60))
    (tmp_path / "file").touch()
    with pytest.raises(Wrong, match="set DATA_DIR"):
        check_data_dir(make_settings(tmp_path, data_dir=tmp_path / "file" / "data"))


def test_a_store_that_works_is_left_as_it_was(
    bucket_settings: Settings, bucket_store: Store
) -> None:
    assert f"bucket {bucket_settings.s3_bucket}" in check_store(bucket_settings)
    assert "agrees" in check_clock(bucket_settings)
    assert bucket_store.list(keys.CHECKS) == []


def test_a_bucket_that_is_not_there_is_explained(bucket_settings: Settings) -> None:
    settings = bucket_settings.model_copy(update={"s3_bucket": "nobody-made-this"})
    with pytest.raises(Wrong, match="set S3_BUCKET and what it needs"):
        check_store(settings)
    with pytest.raises(Wrong, match="mend the store first"):
        check_clock(settings)


@pytest.mark.parametrize(
    ("written", "expected"), [(0.5, 0.0), (-10, -10.0), (11, 10.0), (0, 0.0), (1, 0.0)]
)
def test_a_clock_is_wrong_by_what_lies_outside_the_request(written: float, expected: float) -> None:
    second = timedelta(seconds=1)
    assert skew(NOW, NOW + second, NOW + written * second) == expected * second


def test_every_store_says_when_it_wrote(store: Store) -> None:
    assert abs(clock_skew(store)) < MAX_SKEW
    assert store.list(keys.CHECKS) == []


def test_a_queue_is_asked_without_taking_a_message(
    aws_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    names = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": REGION}
    client = boto3.client("sqs", endpoint_url=aws_endpoint, **names)
    url = client.create_queue(QueueName="doctor")["QueueUrl"]
    client.send_message(QueueUrl=url, MessageBody="{}")
    values: dict[str, Any] = {"sqs_endpoint_url": aws_endpoint, "aws_region": REGION}
    assert "about 1 messages" in check_queue(make_settings(tmp_path, sqs_queue_url=url, **values))
    assert len(client.receive_message(QueueUrl=url)["Messages"]) == 1
    with pytest.raises(Wrong, match="look at SQS_QUEUE_URL"):
        check_queue(make_settings(tmp_path, sqs_queue_url=f"{url}-not", **values))


def test_an_app_server_out_of_reach_is_explained_without_its_password() -> None:
    with pytest.raises(Wrong, match="start it, or set APP_SERVER_URL") as told:
        check_app_server("http://user:hidden@127.0.0.1:9/jobs")
    assert "hidden" not in str(told.value)


@pytest.mark.process
def test_servers_that_are_set_let_us_in_or_say_why(
    redis_url: str, postgres_server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_URL", redis_url)
    monkeypatch.setenv("DATABASE_URL", f"{postgres_server_url}postgres")
    assert check_server("broker") == "the broker lets us in."
    assert check_server("database") == "the database lets us in."
    host = urlsplit(postgres_server_url).hostname
    monkeypatch.setenv("BROKER_URL", "redis://127.0.0.1:9/0")
    monkeypatch.setenv("DATABASE_URL", f"postgresql://nobody:wrong@{host}:9/none")
    with pytest.raises(Wrong, match="set BROKER_URL"):
        check_server("broker")
    with pytest.raises(Wrong, match="set DATABASE_URL") as told:
        check_server("database")
    assert "wrong" not in str(told.value)
