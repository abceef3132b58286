"""Batches by HTTP: what makes two requests the same, and what is refused as a whole."""

from typing import Any

import boto3
import httpx
import pytest

from seg_pipeline.store import Store, keys
from seg_pipeline_tests.api.serving import Serve
from seg_pipeline_tests.aws import REGION

A, B = "https://pictures.example/a.png", "https://pictures.example/b.png"


def test_the_same_request_twice_is_one_batch(serve: Serve) -> None:
    client = serve()
    body = {"uuid": "summer", "image_urls": [A, B]}
    first, second = client.post("/batches", json=body), client.post("/batches", json=body)
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json() == second.json()


@pytest.mark.parametrize("changed", [{"image_urls": [A]}, {"model": "demo-sam2"}, {"resize": 9}])
def test_another_request_under_the_uuid_is_a_conflict(serve: Serve, changed: Any) -> None:
    client = serve()
    body = {"uuid": "summer", "image_urls": [A, B]}
    client.post("/batches", json=body)
    again = client.post("/batches", json={**body, **changed})
    assert (again.status_code, again.json()["code"]) == (409, "batch_conflict")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"model": "gpt"}, "unknown_model"),
        ({"parameters": {"colour": 1}}, "invalid_parameter"),
        ({"parameters": {"confidence": 2}}, "invalid_parameter"),
        ({"resize": 0}, "invalid_resize"),
        ({"ttl_seconds": 0}, "invalid_ttl"),
        ({"uuid": "a/b"}, "invalid_uuid"),
        ({"uuid": "x" * 52}, "invalid_uuid"),
        ({"colour": "red"}, "invalid_request"),
        ({"image_urls": []}, "invalid_request"),
        ({"image_urls": ["hello"]}, "invalid_request"),
        ({"image_urls": A}, "invalid_request"),
    ],
)
def test_what_is_wrong_with_the_whole_is_refused_and_nothing_kept(
    doorman: httpx.Client, fields: dict[str, Any], code: str
) -> None:
    answer = doorman.post("/batches", json={"image_urls": [A], **fields})
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert doorman.get("/batches").json() == {"batches": [], "next": None}


def test_the_options_of_a_plain_list_are_in_the_query(serve: Serve, api_store: Store) -> None:
    client = serve()
    query = {"uuid": "summer", "parameters": '{"confidence": 0.5}', "resize": "64"}
    plain = {"content-type": "text/plain"}
    client.post("/batches", params=query, content=f"{A}\n{B}\n", headers=plain)
    stored = api_store.get(keys.batch_request("summer")).decode()
    assert '"parameters":{"confidence":0.5}' in stored
    assert '"resize":64' in stored


def test_other_bodies_are_refused_with_what_is_read(doorman: httpx.Client) -> None:
    answer = doorman.post("/batches", content=b"x", headers={"content-type": "text/csv"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_body")
    assert "text/plain" in answer.json()["error"]


def test_a_list_of_too_many_bytes_is_refused(serve: Serve) -> None:
    client = serve(max_batch_list_bytes=20)
    answer = client.post("/batches", json=[A])
    assert (answer.status_code, answer.json()["code"]) == (413, "batch_too_large")
    assert "MAX_BATCH_LIST_BYTES = 20" in answer.json()["error"]


def test_a_client_cannot_take_the_uuid_of_a_batch_s_job(doorman: httpx.Client) -> None:
    answer = doorman.post("/jobs", json={"image_url": A, "uuid": "batch-summer-000001"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_uuid")


def test_the_app_server_is_told_where_there_is_one_unless_it_is_not_to(
    serve: Serve, api_store: Store
) -> None:
    client = serve(app_server_url="http://app.example")
    for uuid, options in (("told", {}), ("untold", {"callback": False})):
        client.post("/batches", json={"image_urls": [A], "uuid": uuid, **options})
    assert b'"callback":true' in api_store.get(keys.batch_request("told"))
    assert b'"callback":false' in api_store.get(keys.batch_request("untold"))


def test_a_webhook_is_kept_with_the_batch_and_another_one_is_another_request(
    serve: Serve, api_store: Store
) -> None:
    client, url = serve(webhook_hosts="hooks.example.com"), "https://hooks.example.com/b"
    body = {"uuid": "summer", "image_urls": [A]}
    assert client.post("/batches", json={**body, "webhook": url}).status_code == 202
    assert url.encode() in api_store.get(keys.batch_request("summer"))
    assert client.post("/batches", json={**body, "webhook": f"{url}c"}).status_code == 409
    assert url not in client.get("/batches/summer").text


@pytest.mark.parametrize("hosts", [None, "hooks.example.com"])
def test_a_webhook_that_is_not_allowed_is_refused_and_the_batch_with_it(
    serve: Serve, hosts: str | None
) -> None:
    client, plain = serve(webhook_hosts=hosts), {"content-type": "text/plain"}
    url = "http://10.0.0.1/"
    answers = [
        client.post("/batches", json={"image_urls": [A], "webhook": url}),
        client.post("/batches", params={"webhook": url}, content=A, headers=plain),
    ]
    assert {each.json()["code"] for each in answers} == {"webhook_refused"}
    assert client.get("/batches").json()["batches"] == []


def test_a_prefix_of_a_bucket_becomes_a_batch(serve: Serve, aws_endpoint: str) -> None:
    names = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": REGION}
    s3 = boto3.client("s3", endpoint_url=aws_endpoint, **names)
    s3.create_bucket(Bucket="batched")
    for key in ("summer/1.jpg", "summer/2.jpg", "summer/notes.txt"):
        s3.put_object(Bucket="batched", Key=key, Body=b"x")
    keys_of_s3 = {"s3_access_key": "test", "s3_secret_key": "test"}
    client = serve(s3_endpoint_url=aws_endpoint, s3_sources="batched/summer/", **keys_of_s3)
    batch = client.post("/batches", json={"prefix": "s3://batched/summer/"}).json()
    assert (batch["total"], batch["rejected"]) == (2, 1)
    assert batch["problems"][0]["where"] == "summer/notes.txt"
    page = client.get(f"/batches/{batch['uuid']}/jobs").json()
    assert [job["name"] for job in page["jobs"]] == [
        "s3://batched/summer/1.jpg",
        "s3://batched/summer/2.jpg",
    ]
    refused = client.post("/batches", json={"prefix": "s3://batched/winter/"})
    assert (refused.status_code, refused.json()["code"]) == (400, "url_refused")


@pytest.mark.parametrize("body", [{}, {"image_urls": [A], "prefix": "s3://b/"}])
def test_a_batch_is_a_list_or_a_prefix_and_not_both(
    doorman: httpx.Client, body: dict[str, Any]
) -> None:
    answer = doorman.post("/batches", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
