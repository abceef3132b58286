"""`POST /segment`: the replaced image service, with everything that can be sent to it."""

import errno
import io
from typing import Any

import httpx
import pytest
from PIL import Image

from seg_pipeline.errors import (
    ModelFailed,
    SegPipelineError,
    StoreFull,
    StoreUnavailable,
    TruncatedImage,
    WorkerLost,
)
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline_tests.api.serving import Serve
from seg_pipeline_tests.api.stand_ins import DRAWING, FailingStore, FakeWorker, finish_job
from seg_pipeline_tests.builders import make_picture, picture_bytes, saved, waiting_uuids

PICTURE = picture_bytes()


def test_a_raw_picture_is_answered_with_the_original_first_and_a_cut_out_a_segment(
    serve: Serve, api_store: Store
) -> None:
    """`curl --data-binary` calls the body a form, and still it is a picture."""
    client = serve()
    with FakeWorker(api_store, DRAWING, "#.../..../..../...."):
        response = client.post(
            "/segment",
            content=PICTURE,
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        )
    answer = response.json()
    assert response.status_code == 200
    assert next(iter(answer)) == "uuid"
    assert answer["file_names"][0] == f"{answer['uuid']}/original.webp"
    assert answer["urls"] == [
        str(client.base_url.join(f"/assets/{name}")) for name in answer["file_names"]
    ]
    assert len(answer["file_names"]) == 3
    for url in answer["urls"]:
        assert client.get(url).headers["content-type"] == "image/webp"


@pytest.mark.parametrize("field", ["image", "file", "whatever"])
def test_a_form_may_call_its_file_as_it_likes(serve: Serve, api_store: Store, field: str) -> None:
    client = serve()
    with FakeWorker(api_store, DRAWING):
        response = client.post(
            "/segment",
            files={field: ("a.png", PICTURE)},
            data={"uuid": "mine", "ttl_seconds": "60"},
        )
    assert response.status_code == 200
    assert response.json()["uuid"] == "mine"
    assert JobRepository(api_store).job("mine").ttl_seconds == 60


def test_resize_gives_the_longer_side_of_the_cut_outs_upscaled_if_need_be(
    serve: Serve, api_store: Store
) -> None:
    client = serve()
    with FakeWorker(api_store, DRAWING):
        answer = client.post("/segment/256", content=PICTURE).json()
    crop = Image.open(io.BytesIO(client.get(answer["urls"][1]).content))
    assert max(crop.size) == 256
    assert answer["resize"] == 256


def test_parameters_and_rle_come_in_the_query_or_as_fields(serve: Serve, api_store: Store) -> None:
    client = serve()
    asked = {
        "model": "demo-sam2",
        "parameters": '{"points_per_side": 8, "pred_iou_thresh": 0.5}',
        "rle": "true",
    }
    with FakeWorker(api_store, DRAWING):
        answers = [
            client.post("/segment", params=asked, content=PICTURE).json(),
            client.post("/segment", data=asked, files={"image": PICTURE}).json(),
            client.post(
                "/segment/32", params=asked, data={"rle": "false"}, files={"image": PICTURE}
            ).json(),
        ]
    assert [answer["parameters"] for answer in answers] == [
        {"points_per_side": 8, "pred_iou_thresh": 0.5}
    ] * 3
    assert ["rle" in answer["segments"][0] for answer in answers] == [True, True, False]


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ("points_per_side=8", "parameters 'points_per_side=8' must be a JSON object."),
        ("", "parameters '' must be a JSON object."),
        ("[8]", "must be a JSON object."),
        ('{"confidence": NaN}', "parameter confidence nan must be a number from 0 to 1."),
        ('{"confidence": true}', "parameter confidence True must be a number from 0 to 1."),
        ('{"colour": 8}', "parameter 'colour' is unknown to demo-yolo, which has confidence."),
    ],
)
@pytest.mark.parametrize("as_form", [False, True])
def test_parameters_that_cannot_be_are_refused_with_what_can(
    doorman: httpx.Client, parameters: str, sentence: str, as_form: bool
) -> None:
    fields = {"parameters": parameters}
    response = (
        doorman.post("/segment", data=fields, files={"image": PICTURE})
        if as_form
        else doorman.post("/segment", params=fields, content=PICTURE)
    )
    assert (response.status_code, response.json()["code"]) == (422, "invalid_parameter")
    assert response.json()["error"].endswith(sentence)


@pytest.mark.parametrize("resize", ["0", "-1", "1000000000", "abc", "8193", "1.5", "9" * 400])
def test_a_resize_that_cannot_be_is_refused_with_its_limits(
    doorman: httpx.Client, resize: str
) -> None:
    response = doorman.post(f"/segment/{resize}", content=PICTURE)
    assert response.status_code == 422
    assert response.json()["code"] == "invalid_resize"
    assert "from 1 to 8192" in response.json()["error"]


@pytest.mark.parametrize(
    "uuid", ["../x", "a/b", "a.b", "", "-a", "a" * 65, "a b", "ä", "%2e%2e", "a\x00"]
)
def test_a_uuid_that_is_no_plain_name_is_refused(doorman: httpx.Client, uuid: str) -> None:
    response = doorman.post("/segment", params={"uuid": uuid}, content=PICTURE)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_uuid")


@pytest.mark.parametrize(
    "model", ["gpt", "/etc/passwd", "../weights.pt", "yolov8x", "", "https://a/b-seg"]
)
def test_an_unknown_model_is_refused_and_no_client_names_a_file(
    doorman: httpx.Client, model: str
) -> None:
    response = doorman.post("/segment", params={"model": model}, content=PICTURE)
    assert (response.status_code, response.json()["code"]) == (422, "unknown_model")


def test_the_model_that_the_operator_set_may_be_a_path(serve: Serve, api_store: Store) -> None:
    client = serve(model="/models/ours.pt", wait_seconds=0)
    uuid = client.post("/segment", content=PICTURE).json()["uuid"]
    assert JobRepository(api_store).job(uuid).model == "/models/ours.pt"


def test_a_misspelt_parameter_is_refused_rather_than_ignored(doorman: httpx.Client) -> None:
    response = doorman.post("/segment", params={"modle": "demo-yolo"}, content=PICTURE)
    assert response.status_code == 422
    assert "'modle'" in response.json()["error"]


@pytest.mark.parametrize("ttl", ["0", "-5", "2592001", "soon"])
def test_a_ttl_out_of_range_is_refused(doorman: httpx.Client, ttl: str) -> None:
    response = doorman.post("/segment", params={"ttl_seconds": ttl}, content=PICTURE)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_ttl")


def animated_gif() -> bytes:
    frames = [Image.fromarray(make_picture(seed=seed)) for seed in range(2)]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("body", "status_and_code"),
    [
        (b"", (400, "empty_image")),
        (b"hello, world", (400, "not_an_image")),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", (400, "not_an_image")),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", (400, "not_an_image")),
        (PICTURE[:20], (400, "truncated_image")),
        (animated_gif(), (400, "animated_image")),
        (picture_bytes(make_picture(200, 200)), (413, "too_many_pixels")),
        (PICTURE + bytes(20_000), (413, "image_too_large")),
    ],
)
@pytest.mark.parametrize("form", [False, True])
def test_what_is_no_usable_picture_is_refused_before_it_becomes_a_job(
    serve: Serve, api_store: Store, body: bytes, status_and_code: tuple[int, str], form: bool
) -> None:
    client = serve(max_image_pixels=100 * 100, max_image_bytes=20_000)
    body_or_form: dict[str, Any] = {"files": {"image": ("x", body)}} if form else {"content": body}
    response = client.post("/segment", **body_or_form)
    assert (response.status_code, response.json()["code"]) == status_and_code
    assert waiting_uuids(JobRepository(api_store), 10) == []
    assert api_store.list_folders(keys.ASSETS) == []


def test_a_form_without_a_file_is_an_empty_picture(doorman: httpx.Client) -> None:
    response = doorman.post("/segment", files={"uuid": (None, "mine")})
    assert (response.status_code, response.json()["code"]) == (400, "empty_image")


def test_a_form_with_two_pictures_is_refused(doorman: httpx.Client) -> None:
    files = [("image", ("a.png", PICTURE)), ("image", ("b.png", PICTURE))]
    response = doorman.post("/segment", files=files)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("charset", ["undefined", "rot13", "idna", "zip", "no-such"])
def test_a_form_in_a_strange_alphabet_is_the_callers_fault(
    doorman: httpx.Client, charset: str
) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="uuid"\r\n\r\n\xff\xfe..\r\n--x--\r\n'
    headers = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
    assert doorman.post("/segment", content=body, headers=headers).status_code == 422


@pytest.mark.parametrize(
    "body", [b"", b"--x", b"--x\r\nContent-Disposition: form-data\r\n\r\nhello\r\n--x--\r\n"]
)
def test_a_form_that_cannot_be_read_is_the_callers_fault(
    doorman: httpx.Client, body: bytes
) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert doorman.post("/segment", content=body, headers=headers).status_code in (400, 422)
    assert (
        doorman.post(
            "/segment", content=PICTURE, headers={"Content-Type": "multipart/form-data"}
        ).status_code
        == 422
    )


@pytest.mark.parametrize("mode", ["CMYK", "P", "LA", "I;16", "RGBA", "1", "L"])
def test_pictures_of_every_mode_are_accepted(serve: Serve, mode: str) -> None:
    picture = Image.fromarray(make_picture()).convert("L" if mode == "I;16" else mode)
    picture = Image.new("I;16", (8, 8), 40_000) if mode == "I;16" else picture
    format_ = "TIFF" if mode == "CMYK" else "PNG"
    response = serve(wait_seconds=0).post("/segment", content=saved(picture, format_))
    assert response.status_code == 202


def test_a_picture_without_segments_is_answered_as_the_seed_meant_to(
    serve: Serve, api_store: Store
) -> None:
    with FakeWorker(api_store):
        response = serve().post("/segment", content=PICTURE)
    assert response.status_code == 400
    assert response.text == '{"error":"No masks found"}'
    assert response.headers["x-job-uuid"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ModelFailed("it raised."), 500),
        (WorkerLost("mine", 3), 500),
        (TruncatedImage("cut off."), 400),
    ],
)
def test_a_failed_job_is_answered_by_its_code_with_its_uuid(
    serve: Serve, api_store: Store, error: SegPipelineError, status: int
) -> None:
    with FakeWorker(api_store, error=error):
        response = serve().post("/segment", params={"uuid": "mine"}, content=PICTURE)
    assert response.status_code == status
    assert response.json() == {"error": str(error), "code": error.code, "uuid": "mine"}


@pytest.mark.parametrize(
    "prefer", ["respond-async", "Respond-Async", "handling=lenient, respond-async", "wait=0"]
)
def test_a_client_that_prefers_not_to_wait_gets_the_jobs_address(
    serve: Serve, api_store: Store, prefer: str
) -> None:
    client = serve()
    response = client.post("/segment", content=PICTURE, headers={"Prefer": prefer})
    job = response.json()
    assert (response.status_code, job["status"]) == (202, "queued")
    assert response.headers["location"] == f"/jobs/{job['uuid']}"
    assert response.headers["preference-applied"].lower() in prefer.lower()
    finish_job(api_store, job["uuid"], DRAWING)
    assert client.get(response.headers["location"]).json()["status"] == "completed"


def test_when_the_time_to_wait_is_over_the_job_is_not(serve: Serve, api_store: Store) -> None:
    client = serve(wait_seconds=0.2)
    response = client.post("/segment", content=PICTURE, headers={"Prefer": "wait=100"})
    assert response.status_code == 202
    assert response.headers["preference-applied"] == "wait=0.2"
    with FakeWorker(api_store, DRAWING):
        again = client.post("/segment", params={"uuid": response.json()["uuid"]}, content=PICTURE)
        while again.status_code == 202:
            again = client.post(
                "/segment", params={"uuid": response.json()["uuid"]}, content=PICTURE
            )
    assert again.status_code == 200


def test_the_same_request_twice_is_the_same_job_and_another_one_a_conflict(
    serve: Serve, api_store: Store
) -> None:
    client = serve()
    with FakeWorker(api_store, DRAWING):
        first = client.post("/segment", params={"uuid": "mine"}, content=PICTURE)
        second = client.post("/segment", params={"uuid": "mine"}, content=PICTURE)
        other = client.post("/segment/64", params={"uuid": "mine"}, content=PICTURE)
    assert first.json() == second.json()
    assert (other.status_code, other.json()["code"], other.json()["uuid"]) == (
        409,
        "job_conflict",
        "mine",
    )


def test_a_full_disk_is_said_and_nothing_is_half_accepted(serve: Serve, api_store: Store) -> None:
    """The upload's bytes do not fit any more, after the request itself did."""
    full = FailingStore(api_store)
    client = serve(full)
    full.error, full.fails_on = StoreFull("no space left to write x."), lambda key: "source." in key
    response = client.post("/segment", params={"uuid": "mine"}, content=PICTURE)
    assert (response.status_code, response.json()["code"]) == (507, "store_full")
    assert client.get("/jobs/mine").status_code == 404
    assert waiting_uuids(JobRepository(api_store), 10) == []
    full.error = None
    with FakeWorker(api_store, DRAWING):
        assert client.post("/segment", params={"uuid": "mine"}, content=PICTURE).status_code == 200


def test_a_store_that_is_away_is_worth_a_retry_and_its_inner_life_is_not_told(
    serve: Serve, api_store: Store
) -> None:
    away = FailingStore(api_store)
    client = serve(away)
    away.error = StoreUnavailable(f"secret-bucket: {errno.EIO}")
    response = client.post("/segment", content=PICTURE)
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert "secret" not in response.text


def test_a_store_that_stumbles_while_a_client_waits_only_delays_the_answer(
    serve: Serve, api_store: Store
) -> None:
    stumbling = FailingStore(api_store)
    client = serve(stumbling)
    looked: list[str] = []
    stumbling.error, stumbling.fails_on = (
        StoreUnavailable("away."),
        lambda key: stumbles(key, looked),
    )
    with FakeWorker(api_store, DRAWING):
        response = client.post("/segment", content=PICTURE)
    assert response.status_code == 200
    assert len(looked) > 3


def stumbles(key: str, looked: list[str]) -> bool:
    """Whether this look is one of the first three at a result."""
    if key.endswith("result.json"):
        looked.append(key)
    return key.endswith("result.json") and len(looked) <= 3


def test_an_accepted_job_is_said_to_be_accepted_even_if_the_store_is_gone_by_then(
    serve: Serve, api_store: Store
) -> None:
    """Else the client would send it again, under another uuid."""
    failing = FailingStore(api_store)
    failing.error, failing.fails_on = (
        StoreUnavailable("away."),
        lambda key: key.endswith("result.json"),
    )
    response = serve(failing, wait_seconds=0).post("/segment", content=PICTURE)
    assert (response.status_code, response.json()["status"]) == (202, "queued")
    assert waiting_uuids(JobRepository(api_store), 10) == [response.json()["uuid"]]


def test_links_begin_with_the_public_address_where_one_is_set(
    serve: Serve, api_store: Store
) -> None:
    client = serve(base_url="https://seg.example.com/")
    with FakeWorker(api_store, DRAWING):
        answer = client.post("/segment", content=PICTURE).json()
    assert all(url.startswith("https://seg.example.com/assets/") for url in answer["urls"])


def test_in_a_bucket_the_urls_are_the_buckets(
    serve: Serve, bucket_store: Store, bucket_settings: Any
) -> None:
    """The replaced image service's `S3_ENDPOINT_URL/S3_BUCKET/key`."""
    client = serve(bucket_store)
    with FakeWorker(bucket_store, DRAWING):
        answer = client.post("/segment", content=PICTURE).json()
    assert answer["file_names"][0] == f"assets/{answer['uuid']}/original.webp"
    prefix = f"{bucket_settings.s3_endpoint_url}/{bucket_settings.s3_bucket}/"
    assert answer["urls"] == [prefix + name for name in answer["file_names"]]
    assert client.get(f"/{answer['file_names'][0]}").headers["content-type"] == "image/webp"
