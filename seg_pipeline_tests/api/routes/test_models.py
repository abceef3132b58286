"""`GET /models`: what jobs may name, and set."""

from typing import Any

import httpx

from api.routes.models import describe
from api.schemas import MODELS_EXAMPLE
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.settings import Settings
from seg_pipeline.store import Store
from seg_pipeline_tests.api.serving import Serve
from seg_pipeline_tests.api.stand_ins import heartbeat
from seg_pipeline_tests.builders import picture_bytes


def models(client: httpx.Client) -> dict[str, dict[str, Any]]:
    return {model["name"]: model for model in client.get("/models").json()["models"]}


def test_the_default_comes_first_and_others_follow_once(serve: Serve) -> None:
    client = serve(model="demo-yolo", queue_model="sam2.1_hiera_tiny", models="yolo11n-seg")
    offered = models(client)
    assert [*offered] == ["demo-yolo", "sam2.1_hiera_tiny", "yolo11n-seg", "demo-sam2", "sam2+yolo"]
    assert [name for name, each in offered.items() if each["is_default"]] == ["demo-yolo"]
    assert [each["kind"] for each in offered.values()] == [
        *("yolo", "sam2", "yolo", "sam2"),
        "sam2+yolo",
    ]
    bundled = [name for name, each in offered.items() if each["is_bundled"]]
    assert bundled == ["demo-yolo", "demo-sam2"]


def test_a_path_shows_only_its_last_part_and_only_as_the_default(serve: Serve) -> None:
    client = serve(model="/srv/secret/best.pt", models="/srv/other.pt")
    offered = models(client)
    assert [*offered] == ["best.pt", "sam2.1_hiera_large", "demo-yolo", "demo-sam2", "sam2+yolo"]
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


def test_named_masks_are_listed_with_both_models_and_their_parameters(
    serve: Serve, api_store: Store
) -> None:
    client = serve(queue_model="sam2.1_hiera_tiny")
    named = models(client)["sam2+yolo"]
    assert (named["kind"], named["takes_prompts"]) == ("sam2+yolo", False)
    assert not named["is_loaded"]
    assert "sam2.1_hiera_tiny's masks, with demo-yolo's labels" in named["summary"]
    defaults = {each["name"]: each["default"] for each in named["parameters"]}
    expected = {"label_iou": 0.5, "distinct": False, "confidence": 0.25}
    assert defaults.items() >= expected.items()
    heartbeat(api_store, models=("demo-yolo", "sam2.1_hiera_tiny"))
    assert models(client)["sam2+yolo"]["is_loaded"]


def test_named_masks_are_asked_for_by_the_short_name_or_by_both(
    serve: Serve, api_store: Store
) -> None:
    client = serve(wait_seconds=0)
    for uuid, model in (("a", "sam2+yolo"), ("b", "demo-sam2+demo-yolo")):
        asked = {"uuid": uuid, "image_url": "https://example.com/a.png", "model": model}
        assert client.post("/jobs", json=asked).status_code == 202
    plain = client.post(
        "/segment?uuid=c&model=demo-sam2+demo-yolo", content=picture_bytes()
    )  # a query's plus is a space
    assert plain.status_code == 202
    stored = [JobRepository(api_store).job(uuid).model for uuid in "abc"]
    assert stored == ["sam2.1_hiera_large+demo-yolo", *["demo-sam2+demo-yolo"] * 2]


def test_the_documentation_shows_the_demo_model_as_it_is() -> None:
    (shown,) = MODELS_EXAMPLE["models"]
    assert shown == describe("demo-yolo", Settings(_env_file=None, model="demo-yolo"), set())
