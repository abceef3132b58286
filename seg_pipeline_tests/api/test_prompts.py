"""Prompts as a client sends them, and further ones on a picture that the service has."""

import json
from typing import Any

import httpx
import pytest

from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline_tests.api.serving import Serve
from seg_pipeline_tests.api.stand_ins import DRAWING, FakeWorker
from seg_pipeline_tests.builders import make_picture, picture_bytes

PICTURE = picture_bytes(make_picture(32, 24))
POINTS = {"points": [[20, 10, 1], [3, 4.5, 0]]}


def send(client: httpx.Client, parameters: object, way: str, **fields: str) -> httpx.Response:
    options = {"model": "demo-sam2", "parameters": json.dumps(parameters), **fields}
    if way == "query":
        return client.post("/segment", params=options, content=PICTURE)
    return client.post("/jobs", data=options, files={"image": ("a.png", PICTURE)})


@pytest.mark.parametrize("way", ["query", "form"])
def test_prompts_come_with_an_upload(serve: Serve, api_store: Store, way: str) -> None:
    response = send(serve(wait_seconds=0), POINTS, way, uuid="a")
    assert response.status_code == 202
    job = JobRepository(api_store).job("a")
    assert job.parameters == {"points": ((20, 10, 1), (3, 4.5, 0))}
    assert response.json()["parameters"] == POINTS


def test_prompts_come_with_an_address(serve: Serve, api_store: Store) -> None:
    asked = {"uuid": "a", "image_url": "https://example.com/a.png", "model": "demo-sam2"}
    boxes = {"boxes": [[0, 0, 10, 9.5]], "multimask": True}
    assert serve().post("/jobs", json={**asked, "parameters": boxes}).status_code == 202
    assert JobRepository(api_store).job("a").parameters == {
        "boxes": ((0, 0, 10, 9.5),),
        "multimask": 1,
    }


@pytest.mark.parametrize(
    ("parameters", "code", "sentence"),
    [
        ({"points": [[20, 10, 2]]}, "invalid_prompt", "label 2 of a point must be 1"),
        ({"points": []}, "invalid_prompt", "points must be a list of 1 to 64, not 0."),
        ({"points": [[float("nan"), 1]]}, "invalid_prompt", "coordinate nan must be"),
        ({"box": [9, 0, 1, 5]}, "invalid_prompt", "must go from its upper left corner"),
        ({"points": [[33, 33, 1]]}, "prompt_outside", "point (33, 33) lies outside the picture"),
        ({"box": [0, 0, 40, 40]}, "prompt_outside", "box (0, 0, 40, 40) lies outside"),
    ],
)
def test_a_prompt_that_cannot_be_is_refused_at_the_door(
    doorman: httpx.Client, parameters: dict[str, Any], code: str, sentence: str
) -> None:
    response = send(doorman, parameters, "query")
    assert (response.status_code, response.json()["code"]) == (422, code)
    assert sentence in response.json()["error"]


def test_a_model_without_prompts_refuses_them(doorman: httpx.Client) -> None:
    response = send(doorman, POINTS, "query", model="demo-yolo")
    assert response.status_code == 422
    assert response.json()["error"] == (
        "demo-yolo takes no prompts; name a SAM-2 for points and boxes."
    )


def test_a_further_prompt_needs_no_upload(serve: Serve, api_store: Store) -> None:
    client = serve()
    with FakeWorker(api_store, DRAWING):
        first = send(client, POINTS, "query", uuid="first").json()
        asked = {
            "image_of": first["uuid"],
            "model": "demo-sam2",
            "parameters": {"box": [0, 0, 9, 9]},
        }
        assert client.post("/jobs", json={**asked, "uuid": "second"}).status_code == 202
        waited = client.post(
            "/segment",
            params={**asked, "uuid": "third", "parameters": json.dumps(asked["parameters"])},
        )
        form = client.post(
            "/segment/64", files={"image_of": (None, "first"), "uuid": (None, "fourth")}
        )
    assert (waited.status_code, form.status_code) == (200, 200)
    repository = JobRepository(api_store)
    for uuid in ("second", "third", "fourth"):
        assert api_store.get(keys.source(uuid, "png")) == PICTURE
        assert repository.job(uuid).source_sha256 == repository.job("first").source_sha256
    assert repository.job("second").parameters == {"box": (0, 0, 9, 9)}


def test_a_prompt_outside_a_kept_picture_is_refused(serve: Serve) -> None:
    client = serve(wait_seconds=0)
    send(client, POINTS, "query", uuid="first")
    asked = {"image_of": "first", "model": "demo-sam2", "parameters": {"points": [[99, 99]]}}
    assert client.post("/jobs", json=asked).json()["code"] == "prompt_outside"


@pytest.mark.parametrize("uuid", ["nobody", "queue-1"])
def test_a_picture_that_is_not_kept_says_so(doorman: httpx.Client, uuid: str) -> None:
    for response in (
        doorman.post("/jobs", json={"image_of": uuid}),
        doorman.post("/segment", params={"image_of": uuid}),
    ):
        assert (response.status_code, response.json()["code"]) == (404, "picture_not_kept")
        assert "send the picture itself" in response.json()["error"]


def test_a_name_that_is_no_uuid_is_refused(doorman: httpx.Client) -> None:
    response = doorman.post("/jobs", json={"image_of": "../../etc"})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_uuid")


def test_a_job_has_one_picture(serve: Serve) -> None:
    client = serve(wait_seconds=0)
    send(client, POINTS, "query", uuid="first")
    both = [
        client.post("/segment", params={"image_of": "first"}, content=PICTURE),
        client.post("/jobs", data={"image_of": "first"}, files={"image": ("a.png", PICTURE)}),
        client.post("/jobs", json={"image_of": "first", "image_url": "https://example.com/a.png"}),
        client.post("/jobs", json={"model": "demo-sam2"}),
        client.post("/segment"),
    ]
    assert [response.status_code for response in both] == [422, 422, 422, 422, 400]


def test_a_kept_picture_needs_a_key_where_the_service_has_keys(serve: Serve) -> None:
    client = serve(wait_seconds=0, api_keys="s3cret")
    asked = {"image_of": "first"}
    assert client.post("/jobs", json=asked).status_code == 401
    sent = client.post("/segment?uuid=first", content=PICTURE, headers={"x-api-key": "s3cret"})
    assert sent.status_code == 202
    assert client.post("/jobs", json=asked, headers={"x-api-key": "s3cret"}).status_code == 202


def test_the_list_of_models_says_which_take_prompts(serve: Serve) -> None:
    models = serve().get("/models").json()["models"]
    assert {each["name"]: each["takes_prompts"] for each in models}["demo-sam2"]
    assert not {each["name"]: each["takes_prompts"] for each in models}["demo-yolo"]
