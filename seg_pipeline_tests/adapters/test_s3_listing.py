"""Listings of foreign buckets, within what the operator allows."""

from typing import Any

import boto3
import pytest

from seg_pipeline.adapters.s3_listing import objects_below
from seg_pipeline.errors import FetchRejected, FetchUnavailable, InvalidUrl, UrlRefused
from seg_pipeline.local.servers import free_port
from seg_pipeline_tests.aws import REGION
from seg_pipeline_tests.given_settings import GivenSettings

KEYS = (
    "summer/",
    "summer/1.jpg",
    "summer/a b/2.PNG",
    "summer/notes.txt",
    "summer/raw",
    "winter/3.jpg",
)


@pytest.fixture(scope="module")
def bucket(aws_endpoint: str) -> dict[str, Any]:
    """Settings that reach a bucket with some pictures, and another one."""
    names = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": REGION}
    client = boto3.client("s3", endpoint_url=aws_endpoint, **names)
    for name in ("photos-listed", "own-listed"):
        client.create_bucket(Bucket=name)
    for key in KEYS:
        client.put_object(Bucket="photos-listed", Key=key, Body=b"" if key.endswith("/") else b"x")
    for key in ("assets/job-1/source.png", "incoming/a.png", "state/x"):
        client.put_object(Bucket="own-listed", Key=key, Body=b"x")
    return {"s3_endpoint_url": aws_endpoint, "s3_access_key": "test", "s3_secret_key": "test"}


def listed(prefix: str, **values: Any) -> dict[str, bool]:
    """The addresses below a prefix, and whether their names are those of pictures."""
    settings = GivenSettings(**values)
    return {each.object.url: each.is_picture_by_name for each in objects_below(prefix, settings)}


def test_all_objects_below_a_prefix_are_listed_by_key(bucket: dict[str, Any]) -> None:
    assert listed("s3://photos-listed/summer/", **bucket) == {
        "s3://photos-listed/summer/1.jpg": True,
        "s3://photos-listed/summer/a b/2.PNG": True,
        "s3://photos-listed/summer/notes.txt": False,
        "s3://photos-listed/summer/raw": True,
    }


def test_a_whole_bucket_is_a_prefix_too(bucket: dict[str, Any]) -> None:
    assert (
        listed("s3://photos-listed", **bucket).keys()
        == listed("s3://photos-listed/", **bucket).keys()
    )
    assert "s3://photos-listed/winter/3.jpg" in listed("s3://photos-listed", **bucket)


def test_more_than_a_page_is_listed(bucket: dict[str, Any], aws_endpoint: str) -> None:
    names = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": REGION}
    client = boto3.client("s3", endpoint_url=aws_endpoint, **names)
    for number in range(1005):
        client.put_object(Bucket="photos-listed", Key=f"many/{number:04d}.jpg", Body=b"x")
    assert len(listed("s3://photos-listed/many/", **bucket)) == 1005


def test_the_services_own_files_are_not_listed(bucket: dict[str, Any]) -> None:
    own = {**bucket, "s3_bucket": "own-listed"}
    assert listed("s3://own-listed", **own) == {"s3://own-listed/incoming/a.png": True}
    with pytest.raises(UrlRefused):
        listed("s3://own-listed/assets/", **own)


@pytest.mark.parametrize(
    ("sources", "prefix"),
    [("", "s3://photos-listed/"), ("other", "s3://photos-listed/"), ("photos-listed/summer/", "s3://photos-listed/"),
     ("photos-listed/summer/", "s3://photos-listed/summ"), ("photos", "s3://photos-listed/")],
)  # fmt: skip
def test_what_the_operator_does_not_allow_is_refused(
    bucket: dict[str, Any], sources: str, prefix: str
) -> None:
    with pytest.raises(UrlRefused):
        listed(prefix, **bucket, s3_sources=sources)


def test_below_what_the_operator_allows_is_allowed(bucket: dict[str, Any]) -> None:
    allowed = {**bucket, "s3_sources": "other, photos-listed/summer/"}
    assert len(listed("s3://photos-listed/summer/a", **allowed)) == 1


@pytest.mark.parametrize(
    "prefix", ["photos", "http://photos/", "s3://", "s3://Photos/", "s3://photos/a\nb"]
)
def test_what_is_no_prefix_is_refused(bucket: dict[str, Any], prefix: str) -> None:
    with pytest.raises(InvalidUrl):
        listed(prefix, **bucket)


def test_a_bucket_that_is_not_there_is_the_clients_to_mend(bucket: dict[str, Any]) -> None:
    with pytest.raises(FetchRejected, match="404 instead of a list"):
        listed("s3://no-such-bucket/", **bucket)


def test_a_bucket_that_is_away_may_come_back(bucket: dict[str, Any]) -> None:
    away = {**bucket, "s3_endpoint_url": f"http://127.0.0.1:{free_port()}"}
    with pytest.raises(FetchUnavailable):
        listed("s3://photos-listed/", **away)
