"""Ids that are made here, and the models that a client may name."""

from itertools import pairwise
from uuid import RFC_4122, UUID

import httpx
import pytest

from api.job_intake import uuid7
from seg_pipeline.domain import check_uuid
from seg_pipeline.errors import WeightsMissing
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline_tests.api.serving import Serve
from seg_pipeline_tests.api.stand_ins import DRAWING, FakeWorker, finish_job
from seg_pipeline_tests.builders import picture_bytes, waiting_uuids


def test_made_ids_are_rfc_9562s_version_7_and_fit_everywhere() -> None:
    made = [uuid7() for _ in range(200)]
    assert len(set(made)) == 200
    for one in made:
        assert check_uuid(one) == one
        assert (UUID(one).version, UUID(one).variant) == (7, RFC_4122)


def test_made_ids_sort_by_time() -> None:
    milliseconds = [UUID(uuid7()).int >> 80 for _ in range(200)]
    assert all(one <= next_one for one, next_one in pairwise(milliseconds))


def test_a_client_may_name_what_is_listed_and_nothing_else(serve: Serve) -> None:
    client = serve(
        model="demo-yolo",
        queue_model="demo-sam2",
        models="yolov8n-seg, /models/ours.pt",
        wait_seconds=0,
    )
    for model in ("demo-yolo", "demo-sam2", "yolov8n-seg"):
        assert (
            client.post("/segment", params={"model": model}, content=picture_bytes()).status_code
            == 202
        )
    for model in ("yolov8x-seg", "sam2.1_hiera_large", "ours.pt"):
        refused = client.post("/segment", params={"model": model}, content=picture_bytes())
        assert (refused.status_code, refused.json()["code"]) == (422, "unknown_model")
        assert "yolov8n-seg" in refused.json()["error"]
        assert "/models" not in refused.json()["error"]


def test_a_model_of_the_operators_is_shown_without_its_folder(serve: Serve) -> None:
    answer = serve(model="/models/ours.pt", wait_seconds=0).post(
        "/segment", content=picture_bytes()
    )
    assert answer.json()["model"] == "ours.pt"


def test_weights_that_are_not_there_are_no_fault_of_the_server(
    serve: Serve, api_store: Store
) -> None:
    client = serve(models="yolov8n-seg")
    error = WeightsMissing("the weights of yolov8n-seg are not here yet.")
    with FakeWorker(api_store, error=error):
        response = client.post("/segment", params={"model": "yolov8n-seg"}, content=picture_bytes())
    assert (response.status_code, response.json()["code"]) == (503, "weights_missing")
    assert response.headers["retry-after"]


@pytest.mark.parametrize(
    ("hosts", "url", "sentence"),
    [
        (None, "https://hooks.example.com/", "WEBHOOK_HOSTS is not set"),
        ("hooks.example.com", "https://evil.example/", "WEBHOOK_HOSTS does not name evil.example"),
        ("*", "http://127.0.0.1:8000/jobs", "WEBHOOK_HOSTS does not name 127.0.0.1"),
        ("*", "http://[::1]/", "WEBHOOK_HOSTS does not name ::1"),
        ("*", "file:///etc/passwd", "begins with http:// or https://"),
    ],
)
def test_a_webhook_that_is_not_allowed_is_refused_and_the_job_with_it(
    serve: Serve, api_store: Store, hosts: str | None, url: str, sentence: str
) -> None:
    client = serve(webhook_hosts=hosts)
    refused = [
        client.post("/segment", params={"webhook": url}, content=picture_bytes()),
        client.post("/jobs", data={"webhook": url}, files={"image": picture_bytes()}),
        client.post("/jobs", json={"webhook": url, "image_url": "https://cdn.example.com/a.png"}),
    ]
    for response in refused:
        assert (response.status_code, response.json()["code"]) == (422, "webhook_refused")
        assert sentence in response.json()["error"]
    assert api_store.list(keys.ASSETS) == []


def test_a_webhook_is_kept_with_the_job_and_another_one_is_another_request(
    serve: Serve, api_store: Store
) -> None:
    client = serve(webhook_hosts="hooks.example.com", wait_seconds=0)
    url = "https://hooks.example.com/a?token=b"
    asked = {"uuid": "mine", "webhook": url}
    first = client.post("/segment", params=asked, content=picture_bytes())
    other = client.post("/segment", params={**asked, "webhook": f"{url}c"}, content=picture_bytes())
    assert (first.status_code, other.status_code) == (202, 409)
    assert JobRepository(api_store).job("mine").webhook == url
    assert "webhook" not in client.get("/jobs/mine").json()


def test_the_same_bytes_and_options_are_answered_from_the_store_if_that_is_wanted(
    serve: Serve, api_store: Store
) -> None:
    """No worker lives when it is asked again."""
    client = serve(wait_seconds=0.1, api_keys="shop:a,blog:b")

    def segment(key: str = "a", **options: str) -> httpx.Response:
        headers = {"x-api-key": key}
        return client.post("/segment", params=options, content=picture_bytes(), headers=headers)

    assert segment(reuse="true").status_code == 202
    finish_job(api_store, waiting_uuids(JobRepository(api_store))[0], DRAWING)
    again = segment(reuse="true")
    assert (again.status_code, [*again.json()["seconds"]]) == (200, ["reuse"])
    assert client.get(again.json()["urls"][0]).status_code == 200
    assert segment(uuid="mine", ttl_seconds="60", reuse="true").json()["uuid"] == "mine"
    for other in (
        segment(),
        segment(reuse="false"),
        segment(rle="true", reuse="true"),
        segment(parameters='{"confidence": 0.5}', reuse="true"),
        segment(model="demo-sam2", reuse="true"),
        segment(key="b", reuse="true"),
    ):
        assert other.status_code == 202


def test_the_setting_wants_it_for_all_but_those_who_say_no(serve: Serve, api_store: Store) -> None:
    client = serve(wait_seconds=0.1, reuse_results=True)
    assert client.post("/segment", content=picture_bytes()).status_code == 202
    finish_job(api_store, waiting_uuids(JobRepository(api_store))[0], DRAWING)
    assert client.post("/segment", content=picture_bytes()).status_code == 200
    refused = client.post("/segment", params={"reuse": "false"}, content=picture_bytes())
    assert refused.status_code == 202
