"""Links to files that hold for a while and for that file alone."""

import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import boto3
import httpx
import pytest

from seg_pipeline.jobs.file_links import SignedLinks, file_links, is_genuine, sign
from seg_pipeline.settings import Settings
from seg_pipeline.store import Store, open_store
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline_tests.aws import REGION, private_bucket_server
from seg_pipeline_tests.conftest import make_settings

KEY = "assets/a/original.webp"


def links(ttl_seconds: int = 60) -> SignedLinks:
    return SignedLinks(ObjectStore.in_memory(), "secret", ttl_seconds, lambda: 1000.5)


def test_a_link_holds_until_it_expires() -> None:
    url = urlsplit(links().url(KEY, "http://localhost:8000/seg/"))
    assert f"{url.scheme}://{url.netloc}{url.path}" == f"http://localhost:8000/seg/{KEY}"
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    assert query["expires"] == "1060"
    assert is_genuine("secret", KEY, now=1060, **query)
    assert not is_genuine("secret", KEY, now=1061, **query)


def test_a_link_is_for_one_file_one_end_and_one_secret() -> None:
    signature = sign("secret", KEY, "1060")
    assert is_genuine("secret", KEY, "1060", signature, 0)
    assert not is_genuine("secret", "assets/b/original.webp", "1060", signature, 0)
    assert not is_genuine("secret", KEY, "1061", signature, 0)
    assert not is_genuine("other", KEY, "1060", signature, 0)


@pytest.mark.parametrize("expires", ["", "-1", "1e9", "١٠٦٠", "1060.0", " 1060"])
def test_an_end_that_is_no_number_of_seconds_is_none(expires: str) -> None:
    assert not is_genuine("secret", KEY, expires, sign("secret", KEY, expires), 0)


@pytest.mark.parametrize("signature", ["", "é", "0" * 64, "a" * 10_000])
def test_what_was_not_signed_here_is_refused(signature: str) -> None:
    assert not is_genuine("secret", KEY, "1060", signature, 0)


def test_without_a_secret_links_are_the_stores(store: Store) -> None:
    assert file_links(store, Settings(_env_file=None)) is store


def test_in_a_bucket_signed_links_lead_here_and_names_stay(bucket_store: Store) -> None:
    """The bucket can then be closed to everybody."""
    signed = file_links(bucket_store, Settings(_env_file=None, asset_link_secret="secret"))
    assert signed.url(KEY, "http://localhost:8000").startswith(
        f"http://localhost:8000/{KEY}?expires="
    )
    assert signed.file_name(KEY) == bucket_store.file_name(KEY)


def test_a_bucket_signs_its_links_itself_if_that_is_set(
    bucket_store: Store, bucket_settings: Settings
) -> None:
    settings = bucket_settings.model_copy(
        update={"s3_signed_links": True, "asset_link_seconds": 60}
    )
    made = file_links(bucket_store, settings)
    bucket_store.put(KEY, b"picture")
    url = made.url(KEY, "http://ignored")
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert (query["X-Amz-Expires"], query["X-Amz-Algorithm"]) == ("60", "AWS4-HMAC-SHA256")
    assert httpx.get(url).content == b"picture"
    assert made.file_name(KEY) == bucket_store.file_name(KEY)


class Hours:
    """The clock of a server, put forward by hand."""

    ahead_seconds = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_seconds


@pytest.fixture
def hours() -> Hours:
    return Hours()


@pytest.fixture
def private_bucket(tmp_path: Path, hours: Hours) -> Iterator[Settings]:
    """A closed bucket at a server that checks links, whose links hold for an hour."""
    with private_bucket_server("sesame", hours) as url:
        names = {"aws_access_key_id": "key", "aws_secret_access_key": "sesame"}
        s3 = boto3.client("s3", endpoint_url=url, region_name=REGION, **names)
        bucket = f"closed-{secrets.token_hex(6)}"
        s3.create_bucket(Bucket=bucket)
        yield make_settings(
            tmp_path,
            s3_bucket=bucket,
            s3_endpoint_url=url,
            s3_access_key="key",
            s3_secret_key="sesame",
            s3_signed_links=True,
            asset_link_seconds=3600,
        )


@pytest.mark.process
def test_a_link_into_a_closed_bucket_opens_until_it_ends_and_that_file_alone(
    private_bucket: Settings, hours: Hours
) -> None:
    store = open_store(private_bucket)
    for key in (KEY, KEY.replace("/a/", "/b/")):
        store.put(key, b"picture")
    url = file_links(store, private_bucket).url(KEY, "http://ignored")
    assert httpx.get(url).content == b"picture"
    assert httpx.get(url.partition("?")[0]).status_code == 403
    assert httpx.get(url.replace("/a/", "/b/")).status_code == 403
    assert httpx.get(url.replace("Expires=3600", "Expires=7200")).status_code == 403
    hours.ahead_seconds = 3000
    assert httpx.get(url).status_code == 200
    hours.ahead_seconds = 3601
    assert httpx.get(url).status_code == 403
