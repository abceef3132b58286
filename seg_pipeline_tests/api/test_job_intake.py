"""Ids that are made here, and the models that a client may name."""

from itertools import pairwise
from uuid import RFC_4122, UUID

from api.job_intake import uuid7
from seg_pipeline.domain import check_uuid
from seg_pipeline.errors import WeightsMissing
from seg_pipeline.store import Store
from seg_pipeline_tests.api.serving import Serve
from seg_pipeline_tests.api.stand_ins import FakeWorker
from seg_pipeline_tests.builders import picture_bytes


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
