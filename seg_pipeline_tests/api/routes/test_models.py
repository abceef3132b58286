"""`GET /models`: what jobs may name, and set."""

from typing import Any

import httpx

from seg_pipeline.store import Store
from seg_pipeline_tests.api.serving import Serve
from seg_pipeline_tests.api.stand_ins import heartbeat
from seg_pipeline_tests.builders import picture_bytes


def models(client: httpx.Client) -> dict[str, dict[str, Any]]:
    return {model["name"]: model for model in client.get("/models").json()["models"]}


def test_the_default_comes_first_and_others_follow_once(serve: Serve) -> None:
    client = serve(model="demo-yolo", queue_model="sam2.1_hiera_tiny", models="yolo11n-seg")
    offered = models(client)
    assert [*offered] == ["demo-yolo", "sam2.1_hiera_tiny", "yolo11n-seg", "demo-sam2"]
    assert [name for name, each in offered.items() if each["is_default"]] == ["demo-yolo"]
    assert [each["kind"] for each in offered.values()] == ["yolo", "sam2", "yolo", "sam2"]
    bundled = [name for name, each in offered.items() if each["is_bundled"]]
    assert bundled == ["demo-yolo", "demo-sam2"]


def test_a_path_shows_only_its_last_part_and_only_as_the_default(serve: Serve) -> None:
    client = serve(model="/srv/secret/best.pt", models="/srv/other.pt")
    offered = models(client)
    assert [*offered] == ["best.pt", "sam2.1_hiera_large", "demo-yolo", "demo-sam2"]
    assert offered["best.pt"]["is_default"]
    assert "/srv" not in client.get("/models").text


def test_parameters_have_the_configured_default_and_the_limits_that_are_checked(
    serve: Serve,
) -> None:
    client = serve(confidence=0.4, sam2_points_per_side=8)
    (confidence,) = models(client)["demo-yolo"]["parameters"]
    limits = {"type": "number", "default": 0.4, "minimum": 0, "maximum": 1}
    assert confidence.items() >= limits.items()
    of_sam2 = {each["name"]: each for each in models(client)["demo-sam2"]["parameters"]}
    points = {"type": "integer", "default": 8, "minimum": 1, "maximum": 64}
    assert of_sam2["points_per_side"].items() >= points.items()
    assert of_sam2["use_m2m"]["type"] == "boolean"
    assert of_sam2["use_m2m"]["default"] is False
    for value, status in ((1, 202), (1.01, 422)):
        data = {"parameters": f'{{"confidence": {value}}}'}
        answer = client.post("/jobs", files={"a": ("a.png", picture_bytes())}, data=data)
        assert answer.status_code == status


def test_every_model_can_be_named_as_it_is_listed(serve: Serve) -> None:
    client = serve(models="yolo11n-seg")
    for name in models(client):
        files = {"a": ("a.png", picture_bytes())}
        assert client.post("/jobs", files=files, data={"model": name}).status_code == 202


def test_a_model_that_a_live_worker_holds_is_loaded(serve: Serve, api_store: Store) -> None:
    client = serve()
    assert not models(client)["demo-yolo"]["is_loaded"]
    heartbeat(api_store, models=("demo-yolo",))
    offered = models(client)
    assert offered["demo-yolo"]["is_loaded"]
    assert not offered["demo-sam2"]["is_loaded"]
