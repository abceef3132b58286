"""API_KEYS: who may ask."""

from pathlib import Path

import httpx
import pytest

from seg_pipeline.store import Store
from seg_pipeline_tests.api.serving import Serve, eventually
from seg_pipeline_tests.api.stand_ins import DRAWING, finish_job
from seg_pipeline_tests.api.test_main import main_running
from seg_pipeline_tests.builders import picture_bytes

OPEN = {"/", "/health", "/livez", "/readyz", "/openapi.json", "/docs", "/assets/{uuid}/{name:path}"}
KEY = {"x-api-key": "second"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": "x"},
        {"x-api-key": ""},
        {"x-api-key": "first,second"},
        {"Authorization": "Basic second"},
    ],
)
def test_without_a_key_every_route_is_closed_but_probes_files_and_the_documentation(
    serve: Serve, headers: dict[str, str]
) -> None:
    client = serve(api_keys="first, second")
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        for method in operations:
            response = client.request(
                method, path.format(uuid="mine", resize="64", name="x"), headers=headers
            )
            is_open = path.replace("{name}", "{name:path}") in OPEN
            assert (response.status_code == 401) != is_open, f"{method} {path}"
            if not is_open:
                assert response.json()["code"] == "unauthorized"
                assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers", [KEY, {"x-api-key": "first"}, {"Authorization": "Bearer second"}]
)
def test_any_of_the_keys_opens_either_way(serve: Serve, headers: dict[str, str]) -> None:
    assert serve(api_keys="first, second").get("/jobs", headers=headers).status_code == 200


def test_files_stay_open_since_links_go_to_browsers(serve: Serve, api_store: Store) -> None:
    client = serve(api_keys="second")
    client.post(
        "/jobs", files={"a": ("a.png", picture_bytes())}, data={"uuid": "mine"}, headers=KEY
    )
    finish_job(api_store, "mine", DRAWING)
    assert client.get("/assets/mine/original.webp").status_code == 200


def test_keys_that_are_all_blank_lock_everybody_out_rather_than_let_everybody_in(
    serve: Serve,
) -> None:
    client = serve(api_keys=" , ")
    assert client.get("/jobs").status_code == 401
    assert client.get("/jobs", headers={"x-api-key": ","}).status_code == 401


def test_a_refused_upload_is_not_read(serve: Serve) -> None:
    response = serve(api_keys="second").post("/segment", content=bytes(2**20))
    assert response.status_code == 401
    assert response.headers["connection"] == "close"


def test_a_key_with_a_name_is_the_key_alone_or_both(serve: Serve) -> None:
    """Keys that hold a colon were keys before keys had names."""
    client = serve(api_keys="shop:s3cret, plain, old:with:colons")
    for key in ("s3cret", "shop:s3cret", "plain", "old:with:colons", "with:colons"):
        assert client.get("/jobs", headers={"x-api-key": key}).status_code == 200
    for key in ("shop", "shop:", ":s3cret", "old", "colons", "key-2"):
        assert client.get("/jobs", headers={"x-api-key": key}).status_code == 401


def test_a_key_that_asks_too_often_is_told_when_to_come_again_and_others_are_served(
    serve: Serve,
) -> None:
    client = serve(api_keys="shop:a,shop:b,other:c", api_rates="shop=3")
    statuses = [client.get("/jobs", headers={"x-api-key": key}).status_code for key in "aba"]
    assert statuses == [200, 200, 200]
    refused = client.get("/jobs", headers={"x-api-key": "b"})
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert "shop" in refused.json()["error"]
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    assert all(
        client.get("/jobs", headers={"x-api-key": "c"}).status_code == 200 for _ in range(10)
    )
    assert client.get("/jobs", headers={"x-api-key": "d"}).status_code == 401


@pytest.mark.process
def test_the_name_of_a_key_is_on_the_lines_of_its_requests(tmp_path: Path) -> None:
    with main_running(tmp_path, API_KEYS="shop:s3cret") as (_, url):
        response = httpx.post(f"{url}/segment?uuid=mine", content=picture_bytes(), headers={
            "x-api-key": "s3cret", "Prefer": "respond-async"})  # fmt: skip
        assert response.status_code == 202
        eventually(lambda: "accepted" in (tmp_path / "log").read_text())
    lines = [line for line in (tmp_path / "log").read_text().splitlines() if "mine" in line]
    assert lines
    assert all("shop" in line and "s3cret" not in line for line in lines)
