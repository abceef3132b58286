"""`/jobs`: sent now, asked for later."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any

import httpx
import jsonschema
import pytest

from api.schemas import CallbackRecorded
from seg_pipeline.domain import queue_uuid
from seg_pipeline.errors import FetchRejected
from seg_pipeline.imaging.masks import mask_to_rle
from seg_pipeline.jobs.deliveries import Policy, Reply
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline_tests.api.serving import Serve, eventually
from seg_pipeline_tests.api.stand_ins import DRAWING, FakeWorker, finish_job, heartbeat
from seg_pipeline_tests.builders import (
    NOON,
    end_queue_job,
    make_job,
    make_mask,
    make_queue_job,
    picture_bytes,
)

PICTURE = picture_bytes()
URL = "https://cdn.example.com/sample.jpg"


def test_a_job_by_address_is_accepted_once_and_can_be_asked_for(
    serve: Serve, api_store: Store
) -> None:
    client = serve()
    asked = {
        "uuid": "abc123",
        "image_url": URL,
        "model": "demo-sam2",
        "resize": 64,
        "ttl_seconds": 30,
    }
    first = client.post("/jobs", json=asked)
    again = client.post("/jobs", json=asked)
    other = client.post("/jobs", json={**asked, "resize": 65})
    assert (first.status_code, again.status_code, other.status_code) == (202, 200, 409)
    assert first.headers["location"] == again.headers["location"] == "/jobs/abc123"
    job = JobRepository(api_store).job("abc123")
    assert (job.image_url, job.model, job.resize, job.ttl_seconds, job.via) == (
        URL,
        "demo-sam2",
        64,
        30,
        "http",
    )
    assert not job.callback


def test_a_job_by_form_carries_its_picture_and_its_options(serve: Serve, api_store: Store) -> None:
    response = serve().post(
        "/jobs", files={"image": ("a.png", PICTURE)}, data={"uuid": "mine", "resize": "64"}
    )
    job = JobRepository(api_store).job("mine")
    assert response.status_code == 202
    assert (job.resize, job.source_extension) == (64, "png")
    assert api_store.get(keys.source("mine", "png")) == PICTURE


def test_a_form_may_name_an_address_instead_of_a_picture_but_not_both(serve: Serve) -> None:
    client = serve()
    assert client.post("/jobs", files={"image_url": (None, URL)}).status_code == 202
    both = client.post("/jobs", files={"image": ("a.png", PICTURE)}, data={"image_url": URL})
    neither = client.post("/jobs", files={"uuid": (None, "mine")})
    assert (both.status_code, neither.status_code) == (422, 422)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_request"),
        ({"image_url": ""}, "invalid_request"),
        ({"image_url": 5}, "invalid_request"),
        ({"image_url": URL, "uuid": "../x"}, "invalid_uuid"),
        ({"image_url": URL, "uuid": 5}, "invalid_uuid"),
        ({"image_url": URL, "resize": 0}, "invalid_resize"),
        ({"image_url": URL, "rle": "yes"}, "invalid_request"),
        ({"image_url": URL, "parameters": "{}"}, "invalid_parameter"),
        ({"image_url": URL, "parameters": []}, "invalid_parameter"),
        ({"image_url": URL, "parameters": {"confidence": "0.5"}}, "invalid_parameter"),
        ({"image_url": URL, "parameters": {"confidence": 2}}, "invalid_parameter"),
        ({"image_url": URL, "parameters": {"confidence": None}}, "invalid_parameter"),
        ({"image_url": URL, "parameters": {"points_per_side": 8}}, "invalid_parameter"),
        (
            {"image_url": URL, "parameters": {"confidence": 0.5}, "model": "demo-sam2"},
            "invalid_parameter",
        ),
        ({"image_url": URL, "resize": "64"}, "invalid_resize"),
        ({"image_url": URL, "resize": True}, "invalid_resize"),
        ({"image_url": URL, "resize": 1e9}, "invalid_resize"),
        ({"image_url": URL, "model": "gpt"}, "unknown_model"),
        ({"image_url": URL, "ttl_seconds": 0}, "invalid_ttl"),
        ({"image_url": URL, "imagUrl": URL}, "invalid_request"),
        ([], "invalid_request"),
        ("x", "invalid_request"),
    ],
)
def test_a_json_body_that_is_no_job_is_refused(doorman: httpx.Client, body: Any, code: str) -> None:
    response = doorman.post("/jobs", json=body)
    assert (response.status_code, response.json()["code"]) == (422, code)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://a/b", "gopher://a", "/etc/passwd", "http://", "http:///x"]
)
def test_an_address_that_nobody_fetches_is_refused(doorman: httpx.Client, url: str) -> None:
    response = doorman.post("/jobs", json={"image_url": url})
    assert 400 <= response.status_code < 500
    assert response.json()["code"] in ("invalid_url", "url_refused")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 50_000, b"\xff\xfe", b'{"image_url": "\\ud800"}', b"NaN", b"null"]
)
def test_broken_json_is_refused_in_a_sentence(doorman: httpx.Client, body: bytes) -> None:
    response = doorman.post(
        "/jobs", content=body, headers={"Content-Type": "application/json; charset=utf-8"}
    )
    assert response.status_code == 422
    assert response.json()["error"]


def test_a_json_body_may_not_be_large(doorman: httpx.Client) -> None:
    body = json.dumps({"image_url": "https://a.example/" + "x" * 70_000})
    response = doorman.post("/jobs", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


def test_a_bare_picture_is_sent_to_the_other_route(doorman: httpx.Client) -> None:
    response = doorman.post("/jobs", content=PICTURE, headers={"Content-Type": "image/png"})
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_body")
    assert "/segment" in response.json()["error"]


def test_a_job_says_where_it_stands_from_queue_to_result(serve: Serve, api_store: Store) -> None:
    client = serve()
    client.post("/jobs", files={"image": ("a.png", PICTURE)}, data={"uuid": "mine"})
    queued = client.get("/jobs/mine").json()
    JobRepository(api_store).claims.claim(["mine"], "run")
    heartbeat(api_store, "mine")
    processing = client.get("/jobs/mine").json()
    finish_job(api_store, "mine", DRAWING)
    finished = client.get("/jobs/mine").json()
    assert [job["status"] for job in (queued, processing, finished)] == [
        "queued",
        "processing",
        "completed",
    ]
    assert processing["model"] == "demo-yolo"
    assert finished["segments"][0]["label"] == "disc"
    assert finished["expires_at"] > finished["completed_at"] > finished["accepted_at"]


def test_what_a_job_answers_is_what_openapi_documents(serve: Serve, api_store: Store) -> None:
    """No field more, none less."""
    client = serve()
    openapi = client.get("/openapi.json").json()
    answer = openapi["paths"]["/jobs/{uuid}"]["get"]["responses"]["200"]["content"]
    schema = {**answer["application/json"]["schema"], "components": openapi["components"]}
    client.post("/jobs", json={"uuid": "mine", "image_url": URL, "rle": True})
    waiting = client.get("/jobs/mine").json()
    jsonschema.validate(waiting, schema)
    finish_job(api_store, "mine", DRAWING)
    done = client.get("/jobs/mine").json()
    jsonschema.validate(done, schema)
    for wrong in ({**done, "more": 1}, {**done, "status": "queued"}, {**waiting, "error": None}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_parameters_and_run_lengths_are_answered_if_they_were_asked_for(
    serve: Serve, api_store: Store
) -> None:
    client = serve()
    client.post(
        "/jobs",
        json={"uuid": "mine", "image_url": URL, "parameters": {"confidence": 0.5}, "rle": True},
    )
    assert client.get("/jobs/mine").json()["parameters"] == {"confidence": 0.5}
    finish_job(api_store, "mine", DRAWING)
    document = client.get("/jobs/mine").json()
    assert document["parameters"] == {"confidence": 0.5}
    assert document["segments"][0]["rle"] == mask_to_rle(make_mask(DRAWING))


@pytest.mark.parametrize("as_form", [False, True])
def test_another_parameter_is_another_request(
    serve: Serve, api_store: Store, as_form: bool
) -> None:
    """Otherwise a client would get the answer to a question that somebody else asked."""
    client = serve()
    asked = {"uuid": "mine", "image_url": URL, "model": "demo-sam2"}

    def send(**more: Any) -> int:
        if not as_form:
            return client.post("/jobs", json={**asked, **more}).status_code
        texts = {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in more.items()
        }
        return client.post(
            "/jobs", files={name: (None, text) for name, text in {**asked, **texts}.items()}
        ).status_code

    eight = {"points_per_side": 8, "use_m2m": True}
    assert send(parameters=eight) == 202
    assert send(parameters={"use_m2m": 1, "points_per_side": 8.0}, rle=False) == 200
    assert (
        send(parameters={**eight, "points_per_side": 9})
        == send(parameters=eight, rle=True)
        == send()
        == 409
    )
    assert JobRepository(api_store).job("mine").parameters == {"points_per_side": 8, "use_m2m": 1}


def test_a_failed_job_is_found_with_its_code_and_reason(serve: Serve, api_store: Store) -> None:
    client = serve()
    client.post("/jobs", json={"uuid": "mine", "image_url": URL})
    finish_job(api_store, "mine", error=FetchRejected("the server answered 404."))
    response = client.get("/jobs/mine")
    assert response.status_code == 200
    assert response.json()["status"] == "failed"
    assert response.json()["error"] == {
        "code": "fetch_rejected",
        "message": "the server answered 404.",
    }


@pytest.mark.parametrize("uuid", ["nobody", "a.b", "%2e%2e", "..%2fx", "a%00b", "a" * 65, "a%5cb"])
def test_a_job_that_does_not_exist_or_cannot_is_said_so(doorman: httpx.Client, uuid: str) -> None:
    for response in (doorman.get(f"/jobs/{uuid}"), doorman.delete(f"/jobs/{uuid}")):
        assert response.status_code == (404 if uuid in ("nobody", "..%2fx") else 422)
        assert response.json()["error"]


def test_jobs_are_listed_by_status_a_page_at_a_time(serve: Serve, api_store: Store) -> None:
    client = serve()
    for number in range(5):
        client.post("/jobs", json={"uuid": f"job-{number}", "image_url": URL})
    finish_job(api_store, "job-3", DRAWING)
    found, url = [], "/jobs?status=queued&limit=2"
    while url:
        page = client.get(url)
        found += [job["uuid"] for job in page.json()["jobs"]]
        assert {job["status"] for job in page.json()["jobs"]} == {"queued"}
        url = page.links["next"]["url"] if "next" in page.links else ""
        assert bool(url) == bool(page.json()["next"])
    assert found == ["job-0", "job-1", "job-2", "job-4"]
    assert [job["uuid"] for job in client.get("/jobs?status=completed").json()["jobs"]] == ["job-3"]
    assert len(client.get("/jobs").json()["jobs"]) == 5


@pytest.mark.parametrize(
    "query", ["status=lost", "limit=0", "limit=x", "limit=100000", "after=!!", "after=" + "a" * 999]
)
def test_a_listing_that_cannot_be_is_refused(doorman: httpx.Client, query: str) -> None:
    response = doorman.get(f"/jobs?{query}")
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


def test_a_queued_job_and_a_finished_one_are_deleted_with_their_files(
    serve: Serve, api_store: Store
) -> None:
    client = serve()
    for uuid in ("waits", "done"):
        client.post("/jobs", files={"image": ("a.png", PICTURE)}, data={"uuid": uuid})
    finish_job(api_store, "done", DRAWING)
    assert [client.delete(f"/jobs/{uuid}").status_code for uuid in ("waits", "done")] == [204, 204]
    assert [client.delete(f"/jobs/{uuid}").status_code for uuid in ("waits", "done")] == [404, 404]
    assert api_store.list(keys.ASSETS) == []
    assert client.get("/assets/done/original.webp").status_code == 404


def test_a_job_that_a_worker_has_is_cancelled_and_not_deleted_under_its_feet(
    serve: Serve, api_store: Store
) -> None:
    client = serve()
    client.post("/jobs", json={"uuid": "mine", "image_url": URL})
    heartbeat(api_store, "mine")
    response = client.delete("/jobs/mine")
    assert (response.status_code, response.json()["status"]) == (202, "processing")
    assert client.get("/jobs/mine").json()["status"] == "processing"
    assert JobRepository(api_store).cancels.requested(["mine", "other"]) == {"mine"}


def test_a_parked_callback_is_replayed(serve: Serve, api_store: Store) -> None:
    repository = JobRepository(api_store)
    end_queue_job(repository, "mine")
    delivery = repository.outbox.delivery("mine")
    assert delivery is not None
    repository.outbox.note(delivery.parked("404", NOON, Policy(60, 60)), delivery)
    response = serve(app_server_url="https://app.example").post("/jobs/mine/callback")
    assert (response.status_code, response.json()) == (202, {"uuid": "mine", "state": "pending"})
    CallbackRecorded.model_validate(response.json())
    replayed = repository.outbox.delivery("mine")
    assert replayed is not None
    assert replayed.is_pending


def test_what_cannot_be_replayed_says_why(serve: Serve, api_store: Store) -> None:
    repository = JobRepository(api_store)
    repository.acceptance.accept(make_queue_job("running"))
    client = serve(app_server_url="https://app.example")
    client.post("/jobs", json={"uuid": "mine", "image_url": URL})
    answers = [
        client.post(f"/jobs/{uuid}/callback") for uuid in ("nobody", "running", "mine", "..%2Fx")
    ]
    assert [answer.status_code for answer in answers[:3]] == [404, 409, 409]
    assert answers[3].status_code in (404, 422)
    assert [answer.json()["code"] for answer in answers[:3]] == [
        "job_not_found",
        "nothing_to_tell",
        "nothing_to_tell",
    ]
    assert "has not ended yet" in answers[1].json()["error"]


@pytest.mark.parametrize("way", ["query", "form", "json"])
def test_a_job_has_the_priority_that_it_asks_for(serve: Serve, api_store: Store, way: str) -> None:
    client, picture = serve(), {"image": ("a.png", PICTURE)}
    if way == "query":
        client.post("/jobs?uuid=mine&priority=high", files=picture)
    elif way == "form":
        client.post("/jobs", files=picture, data={"uuid": "mine", "priority": "high"})
    else:
        client.post("/jobs", json={"uuid": "mine", "image_url": URL, "priority": "high"})
    assert JobRepository(api_store).job("mine").priority == "high"
    refused = client.post("/jobs?priority=urgent", files=picture)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert "'low', 'normal' or 'high'" in refused.json()["error"]


def test_a_failed_job_is_run_again_under_its_uuid(serve: Serve, api_store: Store) -> None:
    client = serve()
    client.post("/jobs", files={"image": ("a.png", PICTURE)}, data={"uuid": "mine"})
    finish_job(api_store, "mine", error=FetchRejected("It is away."))
    response = client.post("/jobs/mine/retry")
    assert (response.status_code, response.json()["status"]) == (202, "queued")
    assert response.headers["location"] == "/jobs/mine"
    finish_job(api_store, "mine", DRAWING)
    assert client.get("/jobs/mine").json()["status"] == "completed"


def test_a_job_that_has_not_failed_is_not_run_again(serve: Serve, api_store: Store) -> None:
    client = serve()
    for uuid in ("waits", "done"):
        client.post("/jobs", files={"image": ("a.png", PICTURE)}, data={"uuid": uuid})
    finish_job(api_store, "done", DRAWING)
    answers = [client.post(f"/jobs/{uuid}/retry") for uuid in ("waits", "done", "nobody")]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [
        (409, "not_failed"),
        (409, "not_failed"),
        (404, "job_not_found"),
    ]


def test_without_an_app_server_there_is_nobody_to_tell(serve: Serve, api_store: Store) -> None:
    end_queue_job(JobRepository(api_store), "mine")
    answer = serve().post("/jobs/mine/callback")
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_to_tell")


def test_half_an_acceptance_is_no_job_but_can_be_deleted(serve: Serve, api_store: Store) -> None:
    """The process died after the request was written; the uuid must be free again for whoever
    asks."""
    client = serve(wait_seconds=0)
    client.post("/jobs", files={"image": ("a.png", PICTURE)}, data={"uuid": "mine"})
    api_store.delete(keys.inbox("mine"))
    assert client.get("/jobs/mine").status_code == 404
    assert [client.delete("/jobs/mine").status_code for _ in range(2)] == [204, 404]
    assert api_store.list(keys.ASSETS) == []
    assert client.post("/jobs", json={"uuid": "mine", "image_url": URL}).status_code == 202


def test_a_client_cannot_take_a_uuid_that_is_kept_for_the_queue(doorman: httpx.Client) -> None:
    """A message whose own uuid is taken goes by one of these."""
    response = doorman.post("/jobs", json={"uuid": queue_uuid("abc123"), "image_url": URL})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_uuid")


def test_a_job_that_the_app_server_waits_for_cannot_be_deleted_before_it_is_told(
    serve: Serve, api_store: Store
) -> None:
    """Else any client that knows its uuid keeps the app server from its answer."""
    client, repository = serve(app_server_url="http://127.0.0.1:1"), JobRepository(api_store)
    repository.acceptance.accept(make_job("job-1", image_url=URL, via="sqs", callback=True))
    assert client.delete("/jobs/job-1").status_code == 409
    finish_job(api_store, "job-1", DRAWING)
    refused = client.delete("/jobs/job-1")
    assert (refused.status_code, refused.json()["code"]) == (409, "job_in_progress")
    now = datetime.now(UTC)
    delivery = repository.outbox.delivery("job-1")
    assert delivery
    told = delivery.after(Reply(0.1, status=204), now, Policy(60, 60), None, lambda: 0.5)
    repository.outbox.note(told, delivery)
    assert client.delete("/jobs/job-1").status_code == 204


def test_a_job_that_is_waited_for_is_answered_at_its_end(serve: Serve, api_store: Store) -> None:
    client = serve()
    uuid = client.post("/jobs", files={"image": PICTURE}).json()["uuid"]
    with FakeWorker(api_store, DRAWING):
        answer = client.get(f"/jobs/{uuid}", headers={"Prefer": "wait=20"})
    assert answer.json()["status"] == "completed"
    assert answer.headers["preference-applied"] == "wait=20"


def test_a_wait_ends_with_the_job_as_it_stands_and_has_a_limit(serve: Serve) -> None:
    client = serve(wait_seconds=0.1)
    uuid = client.post("/jobs", files={"image": PICTURE}).json()["uuid"]
    answer = client.get(f"/jobs/{uuid}", headers={"Prefer": "wait=3600"})
    assert (answer.status_code, answer.json()["status"]) == (200, "queued")
    assert answer.headers["preference-applied"] == "wait=0.1"


def test_a_job_that_is_deleted_while_it_is_waited_for_is_not_found(serve: Serve) -> None:
    client = serve(wait_seconds=1)
    uuid = client.post("/jobs", files={"image": PICTURE}).json()["uuid"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.get, f"/jobs/{uuid}", headers={"Prefer": "wait=1"})
        client.delete(f"/jobs/{uuid}")
        assert waiting.result().status_code == 404


def test_those_who_wait_for_jobs_hold_no_thread_of_the_pool(serve: Serve, api_store: Store) -> None:
    """The pool has 40 threads; more than that wait, and others are served."""
    client = serve()
    uuid = client.post("/jobs", files={"image": PICTURE}).json()["uuid"]
    ask = partial(client.get, f"/jobs/{uuid}")
    with ThreadPoolExecutor(60) as pool:
        waiting = [pool.submit(ask, headers={"Prefer": "wait=20"}) for _ in range(60)]
        eventually(lambda: _waiting(client) == 60)
        assert ask().json()["status"] == "queued"
        finish_job(api_store, uuid)
        assert {each.result().json()["status"] for each in waiting} == {"completed"}


def _waiting(client: httpx.Client) -> float:
    (line,) = (
        line
        for line in client.get("/metrics").text.splitlines()
        if line.startswith("seg_api_requests_waiting ")
    )
    return float(line.split()[1])


def test_what_is_accepted_says_when_to_ask(serve: Serve) -> None:
    client = serve(wait_seconds=0)
    for answer in (
        client.post("/segment", content=PICTURE),
        client.post("/jobs", files={"image": PICTURE}),
    ):
        assert (answer.status_code, answer.headers["retry-after"]) == (202, "1")


def test_a_job_is_cancelled_in_every_state_and_the_answer_says_what_happened(
    serve: Serve, api_store: Store
) -> None:
    client = serve()
    for uuid in ("waits", "claimed", "with-a-worker", "done", "broken"):
        client.post("/jobs", files={"image": PICTURE}, data={"uuid": uuid})
    client.post("/jobs", json={"uuid": "fetching", "image_url": URL})
    JobRepository(api_store).claims.claim(["claimed", "with-a-worker"], "claimed:1")
    heartbeat(api_store, "with-a-worker")
    finish_job(api_store, "done", DRAWING)
    finish_job(api_store, "broken", error=FetchRejected("No."))
    for uuid in ("fetching", "waits", "claimed"):
        for _ in ("now", "once more"):
            answer = client.post(f"/jobs/{uuid}/cancel")
            job = answer.json()
            assert (answer.status_code, job["error"]["code"]) == (200, "cancelled")
            assert job == client.get(f"/jobs/{uuid}").json()
    for uuid in ("done", "broken"):
        answer = client.post(f"/jobs/{uuid}/cancel")
        assert (answer.status_code, answer.json()["code"]) == (409, "job_finished")
    answer = client.post("/jobs/with-a-worker/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "processing")
    assert answer.headers["location"] == "/jobs/with-a-worker"
    assert JobRepository(api_store).cancels.requested(["with-a-worker"]) == {"with-a-worker"}
    assert client.post("/jobs/unknown/cancel").status_code == 404


def test_a_cancelled_job_of_the_queue_is_told_to_the_app_server(
    serve: Serve, api_store: Store
) -> None:
    JobRepository(api_store).acceptance.accept(make_queue_job("job-1"))
    client = serve(app_server_url="https://app.example")
    assert client.post("/jobs/job-1/cancel").status_code == 200
    assert JobRepository(api_store).outbox.uuids() == {"job-1"}


def test_who_waits_for_a_job_is_answered_when_it_is_cancelled(serve: Serve) -> None:
    client = serve()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, "/segment?uuid=mine", content=PICTURE)
        eventually(lambda: client.get("/jobs/mine").status_code == 200)
        client.post("/jobs/mine/cancel")
        assert (waiting.result().status_code, waiting.result().json()["code"]) == (409, "cancelled")
