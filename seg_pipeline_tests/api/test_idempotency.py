"""The header `Idempotency-Key`: a request that is sent twice is one job, or one batch."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest

from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline_tests.api.serving import Serve, api_settings, serving
from seg_pipeline_tests.api.stand_ins import DRAWING, FakeWorker
from seg_pipeline_tests.builders import make_picture, picture_bytes, waiting_uuids
from seg_pipeline_tests.unreliable import Killed, UnreliableStore

PICTURE, OTHER = picture_bytes(), picture_bytes(make_picture(seed=1))
URL = "https://cdn.example.com/sample.jpg"
KEY = {"Idempotency-Key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}


def test_the_same_request_with_the_same_key_is_answered_with_the_same_job(
    serve: Serve, api_store: Store
) -> None:
    client = serve()
    with FakeWorker(api_store, DRAWING):
        first = client.post("/segment", content=PICTURE, headers=KEY)
        again = client.post("/segment", content=PICTURE, headers=KEY)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert len(api_store.list_folders(keys.ASSETS)) == 1


def test_without_a_key_the_same_picture_is_two_jobs(serve: Serve, api_store: Store) -> None:
    client = serve(wait_seconds=0)
    for _ in range(2):
        client.post("/segment", content=PICTURE)
    assert len(waiting_uuids(JobRepository(api_store))) == 2


@pytest.mark.parametrize(
    ("path", "content"),
    [("/segment", OTHER), ("/segment/64", PICTURE), ("/segment?rle=true", PICTURE)],
)
def test_a_key_with_another_request_is_refused(serve: Serve, path: str, content: bytes) -> None:
    client = serve(wait_seconds=0)
    assert client.post("/segment", content=PICTURE, headers=KEY).status_code == 202
    refused = client.post(path, content=content, headers=KEY)
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")


def test_two_requests_at_the_same_moment_at_two_processes_are_one_job(
    serve: Serve, api_store: Store
) -> None:
    """Both APIs share nothing but the store."""
    clients = [serve(wait_seconds=0), serve(wait_seconds=0)]
    with ThreadPoolExecutor(8) as pool:
        answers = [
            *pool.map(
                lambda n: clients[n % 2].post("/segment", content=PICTURE, headers=KEY).json(),
                range(16),
            )
        ]
    assert len({answer["uuid"] for answer in answers}) == 1
    assert waiting_uuids(JobRepository(api_store)) == [answers[0]["uuid"]]


def test_a_job_by_address_has_keys_too(serve: Serve) -> None:
    client = serve()
    first = client.post("/jobs", json={"image_url": URL}, headers=KEY)
    again = client.post("/jobs", json={"image_url": URL}, headers=KEY)
    other = client.post("/jobs", json={"image_url": f"{URL}?2"}, headers=KEY)
    assert (first.status_code, again.status_code, other.status_code) == (202, 200, 422)
    assert first.json()["uuid"] == again.json()["uuid"]


def test_two_clients_may_have_the_same_key(serve: Serve) -> None:
    client = serve(api_keys="shop:a,blog:b", wait_seconds=0)
    uuids = {
        client.post("/segment", content=content, headers={**KEY, "x-api-key": key}).json()["uuid"]
        for key, content in (("a", PICTURE), ("b", OTHER))
    }
    assert len(uuids) == 2


def test_a_default_that_changes_makes_no_other_request_of_it(serve: Serve) -> None:
    first = serve(wait_seconds=0).post("/segment", content=PICTURE, headers=KEY)
    later = serve(wait_seconds=0, asset_ttl_seconds=60).post(
        "/segment", content=PICTURE, headers=KEY
    )
    assert (later.status_code, later.json()["uuid"]) == (202, first.json()["uuid"])


def test_a_job_that_was_deleted_is_made_again_under_its_key(serve: Serve) -> None:
    client = serve(wait_seconds=0)
    uuid = client.post("/segment", content=PICTURE, headers=KEY).json()["uuid"]
    client.delete(f"/jobs/{uuid}")
    again = client.post("/segment", content=PICTURE, headers=KEY)
    assert (again.status_code, again.json()["uuid"]) == (202, uuid)


@pytest.mark.parametrize("writes", range(4))
def test_an_api_that_dies_between_any_two_writes_makes_one_job_of_the_retry(
    serve: Serve, api_store: Store, tmp_path_factory: pytest.TempPathFactory, writes: int
) -> None:
    dying = UnreliableStore(api_store, lives=writes)
    settings = api_settings(tmp_path_factory.mktemp("dying"), wait_seconds=0)
    with serving(settings, dying) as url, suppress(Killed, httpx.TransportError):
        httpx.post(f"{url}/segment", content=PICTURE, headers=KEY)
    client = serve(wait_seconds=0)
    again = client.post("/segment", content=PICTURE, headers=KEY)
    assert again.status_code == 202
    assert waiting_uuids(JobRepository(api_store)) == [again.json()["uuid"]]


@pytest.mark.parametrize("value", ["", '""', "a b", "a" * 256, '"a', '"ä"', "a, b", '"a"b"'])
def test_what_is_no_key_is_refused_with_what_is_one(doorman: httpx.Client, value: str) -> None:
    refused = doorman.post(
        "/segment", content=PICTURE, headers={b"Idempotency-Key": value.encode()}
    )
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert "Idempotency-Key" in refused.json()["error"]


def test_two_keys_or_a_key_beside_a_uuid_are_refused(doorman: httpx.Client) -> None:
    two = doorman.post("/segment", content=PICTURE, headers=[("Idempotency-Key", "a")] * 2)
    both = doorman.post("/segment?uuid=mine", content=PICTURE, headers=KEY)
    assert (two.status_code, both.status_code) == (422, 422)
    assert both.json()["error"].startswith("send either a uuid or an Idempotency-Key")


def test_quotes_do_not_matter(serve: Serve) -> None:
    client = serve(wait_seconds=0)
    uuids = {
        client.post("/segment", content=PICTURE, headers={"Idempotency-Key": key}).json()["uuid"]
        for key in ("abc", '"abc"')
    }
    assert len(uuids) == 1


def test_a_batch_sent_twice_with_the_same_key_is_one_batch(serve: Serve, api_store: Store) -> None:
    client = serve()
    first = client.post("/batches", json=[URL], headers=KEY)
    again = client.post("/batches", json=[URL], headers=KEY)
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["uuid"] == again.json()["uuid"]
    assert len(api_store.list_folders(keys.BATCHES)) == 1


@pytest.mark.parametrize(
    ("path", "body"), [("/batches", [URL, f"{URL}?2"]), ("/batches?rle=true", [URL])]
)
def test_a_key_with_another_batch_is_refused(serve: Serve, path: str, body: list[str]) -> None:
    client = serve()
    assert client.post("/batches", json=[URL], headers=KEY).status_code == 202
    refused = client.post(path, json=body, headers=KEY)
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")


def test_the_key_of_a_job_is_none_of_a_batch(serve: Serve) -> None:
    client = serve(wait_seconds=0)
    assert client.post("/segment", content=PICTURE, headers=KEY).status_code == 202
    refused = client.post("/batches", json=[URL], headers=KEY)
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")


def test_a_batch_with_a_key_and_a_uuid_is_refused(serve: Serve) -> None:
    refused = serve().post("/batches?uuid=summer", json=[URL], headers=KEY)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
