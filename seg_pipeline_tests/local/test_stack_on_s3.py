"""The whole service with its files and markers in a bucket, over HTTP."""

from collections.abc import Iterator

import boto3
import httpx
import pytest

from seg_pipeline.local.sample import BUNDLED
from seg_pipeline.settings import Settings
from seg_pipeline.store import open_store
from seg_pipeline_tests.aws import REGION
from seg_pipeline_tests.running_stack import Stack

ANY_KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def on_s3(tmp_path_factory: pytest.TempPathFactory, aws_endpoint: str) -> Iterator[Stack]:
    """A stack whose bucket has just been made."""
    httpx.put(f"{aws_endpoint}/pictures").raise_for_status()
    bucket = {"S3_BUCKET": "pictures", "S3_ENDPOINT_URL": aws_endpoint}
    keys = {"S3_ACCESS_KEY": "test", "S3_SECRET_KEY": "test", "INBOX_POLL_SECONDS": "0.2"}
    with Stack(tmp_path_factory.mktemp("s3"), {**bucket, **keys}) as running:
        yield running


def test_files_land_in_the_bucket_and_urls_lead_there(on_s3: Stack, aws_endpoint: str) -> None:
    answer = httpx.post(
        f"{on_s3.base_url}/segment", content=BUNDLED.read_bytes(), timeout=90
    ).json()
    assert answer["file_names"][0] == f"assets/{answer['uuid']}/original.webp"
    assert answer["urls"] == [f"{aws_endpoint}/pictures/{name}" for name in answer["file_names"]]
    assert len(answer["urls"]) == 1 + len(answer["segments"]) > 1
    s3 = boto3.client("s3", endpoint_url=aws_endpoint, region_name=REGION, **ANY_KEYS)
    for url in [*answer["urls"], *(segment["mask_url"] for segment in answer["segments"])]:
        file = s3.get_object(Bucket="pictures", Key=url.removeprefix(f"{aws_endpoint}/pictures/"))
        assert (file["ContentType"], file["ContentLength"] > 0) == (
            f"image/{url.rpartition('.')[2]}",
            True,
        )
    assert not (on_s3.data_dir / "assets").exists()


def test_a_run_s_log_is_in_the_bucket_and_in_dagster_s_ui(on_s3: Stack, aws_endpoint: str) -> None:
    uuid = on_s3.send_sample().document["uuid"]
    on_s3.wait_for(lambda: on_s3.run_log(uuid) != "", "log of the run")
    s3 = boto3.client("s3", endpoint_url=aws_endpoint, region_name=REGION, **ANY_KEYS)
    files = s3.list_objects_v2(Bucket="pictures", Prefix="run-logs/")["Contents"]
    logs = [
        s3.get_object(Bucket="pictures", Key=file["Key"])["Body"].read().decode() for file in files
    ]
    assert on_s3.run_log(uuid) in logs
    assert "segments: 1 of 1 jobs go on" in on_s3.run_log(uuid)


def test_the_bucket_holds_no_marker_of_a_finished_job(on_s3: Stack, aws_endpoint: str) -> None:
    httpx.post(
        f"{on_s3.base_url}/segment", content=BUNDLED.read_bytes(), timeout=90
    ).raise_for_status()
    store = open_store(
        Settings(
            _env_file=None,
            s3_bucket="pictures",
            s3_endpoint_url=aws_endpoint,
            s3_access_key="test",
            s3_secret_key="test",
        )
    )
    assert (store.list("inbox/"), store.list("inflight/")) == ([], [])
    assert store.list("done/completed/")
