"""`/batches`: one id, one progress, and an end."""

from datetime import UTC, datetime

import httpx
import pytest

from seg_pipeline.errors import NotAnImage
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline_tests.api.serving import Serve
from seg_pipeline_tests.api.stand_ins import DRAWING, finish_job, heartbeat
from seg_pipeline_tests.unreliable import UnreliableStore

ADDRESSES = [f"https://pictures.example/{number}.png" for number in range(3)]


@pytest.fixture
def client(serve: Serve) -> httpx.Client:
    """A client of an API that has the batch `summer`, with a broken line."""
    client = serve()
    body = {"uuid": "summer", "image_urls": [*ADDRESSES, "hello"]}
    assert client.post("/batches", json=body).status_code == 202
    return client


def advance(store: Store) -> None:
    """One pass of the sensor."""
    JobRepository(store).batch_work.advance(100, datetime.now(UTC), look=True)


def finish(store: Store) -> None:
    """Takes the batch to its end, its second picture failed."""
    advance(store)
    finish_job(store, "batch-summer-000001", error=NotAnImage("This is a text."))
    for index in (0, 2):
        finish_job(store, f"batch-summer-{index:06d}", DRAWING)
    advance(store)


def test_an_accepted_batch_says_what_was_wrong_with_its_lines(serve: Serve) -> None:
    answer = serve().post("/batches", json=[*ADDRESSES, "hello"])
    batch = answer.json()
    assert answer.headers["location"] == f"/batches/{batch['uuid']}"
    assert (batch["status"], batch["total"], batch["rejected"]) == ("processing", 3, 1)
    assert batch["counts"]["waiting"] == 3
    (problem,) = batch["problems"]
    assert (problem["where"], problem["code"]) == ("image_urls[3]", "invalid_url")


def test_progress_is_told_by_state(client: httpx.Client, api_store: Store) -> None:
    advance(api_store)
    heartbeat(api_store, "batch-summer-000000")
    counts = client.get("/batches/summer").json()["counts"]
    assert (counts["waiting"], counts["queued"], counts["processing"]) == (0, 2, 1)
    finish(api_store)
    batch = client.get("/batches/summer").json()
    assert batch["status"] == "completed"
    assert (batch["counts"]["completed"], batch["counts"]["failed"]) == (2, 1)
    assert batch["completed_at"] < batch["expires_at"]


def test_what_failed_is_listed_with_its_reason(client: httpx.Client, api_store: Store) -> None:
    finish(api_store)
    page = client.get("/batches/summer/jobs", params={"status": "failed"}).json()
    assert page == {
        "jobs": [
            {
                "index": 1,
                "name": ADDRESSES[1],
                "uuid": "batch-summer-000001",
                "status": "failed",
                "error": {"code": "not_an_image", "message": "This is a text."},
            }
        ],
        "next": None,
    }


def test_pages_of_jobs_follow_one_another(client: httpx.Client) -> None:
    first = client.get("/batches/summer/jobs", params={"limit": 2})
    assert [job["index"] for job in first.json()["jobs"]] == [0, 1]
    following = first.headers["link"].partition(">")[0].removeprefix("<")
    second = client.get(following).json()
    assert [job["index"] for job in second["jobs"]] == [2]
    assert second["next"] is None


def test_a_page_after_nothing_known_is_refused(client: httpx.Client) -> None:
    answer = client.get("/batches/summer/jobs", params={"after": "x"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_a_job_of_a_batch_is_a_job_like_others(client: httpx.Client, api_store: Store) -> None:
    finish(api_store)
    assert client.get("/jobs/batch-summer-000000").json()["status"] == "completed"


def test_batches_are_listed(client: httpx.Client) -> None:
    client.post("/batches", json={"uuid": "winter", "image_urls": ADDRESSES})
    page = client.get("/batches", params={"limit": 1}).json()
    assert [batch["uuid"] for batch in page["batches"]] == ["summer"]
    rest = client.get("/batches", params={"after": page["next"]}).json()
    assert [(batch["uuid"], batch["total"]) for batch in rest["batches"]] == [("winter", 3)]


def test_a_batch_under_way_is_cancelled_and_one_that_has_ended_deleted(
    client: httpx.Client, api_store: Store
) -> None:
    assert client.delete("/batches/summer").status_code == 202
    advance(api_store)
    batch = client.get("/batches/summer").json()
    assert (batch["status"], batch["counts"]["cancelled"]) == ("cancelled", 3)
    assert client.delete("/batches/summer").status_code == 204
    assert client.get("/batches/summer").json()["code"] == "batch_not_found"
    assert api_store.list(keys.BATCHES) == []


def test_an_unknown_batch_is_not_found(client: httpx.Client) -> None:
    for path in ("/batches/winter", "/batches/winter/jobs"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "batch_not_found")


def test_the_status_of_many_reads_no_more_files_than_that_of_few(
    serve: Serve, api_store: Store
) -> None:
    counted = UnreliableStore(api_store)
    client = serve(counted)
    calls = []
    for total in (2, 2000):
        addresses = [f"https://pictures.example/{number}.png" for number in range(total)]
        uuid = client.post("/batches", json=addresses).json()["uuid"]
        counted.calls.clear()
        client.get(f"/batches/{uuid}")
        calls.append(dict(counted.calls))
    assert calls[0] == calls[1]
