"""What waits for a person, over HTTP."""

import json

from seg_pipeline.jobs.deliveries import Policy
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline_tests.api.serving import Serve
from seg_pipeline_tests.builders import NOON
from seg_pipeline_tests.jobs.batches_in_store import accept_batch, advance, finish_waiting
from seg_pipeline_tests.jobs.test_parked import park_callback, park_message

GOOD = json.dumps({"uuid": "job-9", "image_url": "https://example.com/x.png"})


def test_parked_things_are_listed_in_pages(serve: Serve, api_store: Store) -> None:
    park_message(api_store)
    park_callback(api_store)
    client = serve()
    first = client.get("/parked?limit=1")
    assert [each["name"] for each in first.json()["parked"]] == ["callback-job-1"]
    assert first.json()["parked"][0]["uuid"] == "job-1"
    second = client.get(first.headers["link"].partition(">")[0].lstrip("<"))
    assert [each["name"] for each in second.json()["parked"]] == ["m-1"]
    assert second.json()["parked"][0]["body"] == "{"
    assert second.json()["next"] is None


def test_a_message_that_can_be_a_job_by_now_becomes_one(serve: Serve, api_store: Store) -> None:
    park_message(api_store, body=GOOD)
    client = serve()
    assert client.post("/parked/m-1/replay").json() == {"name": "m-1", "uuid": "job-9"}
    assert JobRepository(api_store).fetches.uuids() == ["job-9"]
    assert JobRepository(api_store).job("job-9").via == "sqs"
    assert client.post("/parked/m-1/replay").status_code == 404
    assert client.get("/parked").json()["parked"] == []


def test_a_replay_that_died_before_it_forgot_is_the_same_job(
    serve: Serve, api_store: Store
) -> None:
    park_message(api_store, body=GOOD)
    client = serve()
    client.post("/parked/m-1/replay")
    park_message(api_store, body=GOOD)
    assert client.post("/parked/m-1/replay").status_code == 202
    assert JobRepository(api_store).fetches.uuids() == ["job-9"]


def test_a_message_that_still_cannot_be_a_job_stays_and_says_why(
    serve: Serve, api_store: Store
) -> None:
    park_message(api_store)
    client = serve()
    answer = client.post("/parked/m-1/replay")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert len(client.get("/parked").json()["parked"]) == 1


def test_a_callback_is_told_again(serve: Serve, api_store: Store) -> None:
    park_callback(api_store)
    client = serve(app_server_url="http://localhost:9")
    assert client.post("/parked/callback-job-1/replay").status_code == 202
    delivery = JobRepository(api_store).outbox.delivery("job-1")
    assert delivery
    assert delivery.is_pending


def test_without_an_app_server_there_is_nobody_to_tell(serve: Serve, api_store: Store) -> None:
    park_callback(api_store)
    assert serve().post("/parked/callback-job-1/replay").json()["code"] == "nothing_to_tell"


def test_what_is_dropped_is_gone(serve: Serve, api_store: Store) -> None:
    park_message(api_store)
    client = serve()
    assert client.delete("/parked/m-1").status_code == 204
    assert client.delete("/parked/m-1").json()["code"] == "parked_not_found"
    assert api_store.list(keys.PARKED) == []


def test_it_needs_a_key_where_there_are_keys(serve: Serve, api_store: Store) -> None:
    park_message(api_store)
    client = serve(api_keys="secret")
    assert [client.get("/parked").status_code, client.delete("/parked/m-1").status_code] == [
        401,
        401,
    ]
    assert client.delete("/parked/m-1", headers={"x-api-key": "secret"}).status_code == 204


def test_the_end_of_a_batch_is_told_to_its_webhook_again_without_an_app_server(
    serve: Serve, api_store: Store
) -> None:
    repository = JobRepository(api_store)
    batch = accept_batch(repository, 1, webhook="https://hooks.example.com/")
    advance(repository)
    finish_waiting(repository)
    progress = advance(repository)
    delivery = repository.outbox.delivery(keys.batch_webhook(batch.id))
    assert delivery is not None
    repository.outbox.note(delivery.parked("it is gone", NOON, Policy(60, 60)), delivery)
    client = serve(webhook_hosts="hooks.example.com")
    (parked,) = client.get("/parked").json()["parked"]
    assert client.post(f"/parked/{parked['name']}/replay").status_code == 202
    again = repository.outbox.delivery(keys.batch_webhook(batch.id))
    assert again is not None
    assert (again.state, again.result_sha256) == ("pending", progress.sha256)
