"""`GET /jobs/{uuid}/export`: who gets which file, and what a refusal says."""

from collections.abc import Iterator
from io import BytesIO
from zipfile import ZipFile

import cv2
import httpx
import numpy as np
import pytest

from seg_pipeline.errors import NotAnImage
from seg_pipeline.exports import FORMATS
from seg_pipeline.store import Store, keys, open_store
from seg_pipeline_tests.api.serving import Serve, api_settings, serving
from seg_pipeline_tests.api.stand_ins import DRAWING, finish_job
from seg_pipeline_tests.builders import bits, picture_bytes

OTHER = "#.../..../..../...."


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of an API with a completed job `done`, a failed one and a queued one."""
    settings = api_settings(tmp_path_factory.mktemp("exports"))
    store = open_store(settings)
    with serving(settings, store) as url, httpx.Client(base_url=url, timeout=30) as client:
        for uuid in ("done", "failed", "queued"):
            send(client, uuid)
        finish_job(store, "done", DRAWING, OTHER)
        finish_job(store, "failed", error=NotAnImage("This is a text."))
        yield client


def send(client: httpx.Client, uuid: str) -> None:
    client.post("/jobs", files={"image": ("a.png", picture_bytes())}, data={"uuid": uuid})


def asked(name: str) -> dict[str, str]:
    """The query of a format."""
    needs_segment = "segment" in FORMATS[name].options
    return {"format": name, **({"segment": "1"} if needs_segment else {})}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_a_download_under_a_name_of_its_own(
    client: httpx.Client, name: str
) -> None:
    response = client.get("/jobs/done/export", params=asked(name))
    assert response.status_code == 200
    assert response.headers["content-type"] == FORMATS[name].media_type
    number = "-001" if "segment" in FORMATS[name].options else ""
    file_name = f"done{number}{FORMATS[name].suffix}"
    assert response.headers["content-disposition"] == f'attachment; filename="{file_name}"'
    assert response.content


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_the_client_has_is_not_made_again(client: httpx.Client, name: str) -> None:
    first = client.get("/jobs/done/export", params=asked(name))
    known = {"If-None-Match": first.headers["etag"]}
    again = client.get("/jobs/done/export", params=asked(name), headers=known)
    assert (again.status_code, again.content) == (304, b"")
    assert first.headers["cache-control"] == "private, no-cache"


def test_every_format_has_a_tag_of_its_own(client: httpx.Client) -> None:
    tags = {
        client.head("/jobs/done/export", params=asked(name)).headers["etag"] for name in FORMATS
    }
    assert len(tags) == len(FORMATS)


def test_head_says_what_get_would_without_the_bytes(client: httpx.Client) -> None:
    got = client.get("/jobs/done/export", params={"format": "coco"})
    headed = client.head("/jobs/done/export", params={"format": "coco"})
    assert (headed.status_code, headed.content) == (200, b"")
    assert "content-length" not in headed.headers
    for name in ("content-type", "content-disposition", "etag"):
        assert headed.headers[name] == got.headers[name]


def test_the_masks_are_those_of_the_job(client: httpx.Client) -> None:
    png = client.get("/jobs/done/export", params={"format": "mask", "segment": 1}).content
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert pixels is not None
    assert np.array_equal(pixels == 255, bits(OTHER))
    archive = ZipFile(BytesIO(client.get("/jobs/done/export?format=masks").content))
    assert archive.read("masks/mask_001.png") == png


def test_the_document_has_an_annotation_for_each_segment(client: httpx.Client) -> None:
    document = client.get("/jobs/done/export?format=coco").json()
    assert [each["area"] for each in document["annotations"]] == [4, 1]
    assert document["images"][0]["file_name"] == "done.webp"


@pytest.mark.parametrize("name", ["coco", "polygons", "labelme"])
def test_a_document_calls_the_picture_what_its_sender_calls_it(
    client: httpx.Client, name: str
) -> None:
    named = client.get(
        "/jobs/done/export", params={"format": name, "file_name": 'f\u00fcr/"a".jpg'}
    )
    document = named.json()
    place = {"coco": lambda: document["images"][0]["file_name"],
             "polygons": lambda: document["picture"]["file_name"],
             "labelme": lambda: document["imagePath"]}  # fmt: skip
    assert place[name]() == 'f\u00fcr/"a".jpg'
    plain = client.get("/jobs/done/export", params={"format": name})
    assert plain.headers["etag"] != named.headers["etag"]
    assert plain.headers["content-disposition"] == named.headers["content-disposition"]


@pytest.mark.parametrize(
    ("path", "status", "code", "words"),
    [
        ("/jobs/done/export?format=svg", 422, "invalid_request", "coco"),
        ("/jobs/done/export", 422, "invalid_request", "format"),
        ("/jobs/done/export?format=mask", 422, "invalid_request", "segment=0"),
        ("/jobs/done/export?format=coco&segment=0", 422, "invalid_request", "mask alone"),
        ("/jobs/done/export?format=coco&tolerance=1", 422, "invalid_request", "tolerance"),
        ("/jobs/done/export?format=yolo&file_name=a", 422, "invalid_request", "coco"),
        ("/jobs/done/export?format=coco&file_name=", 422, "invalid_request", "file_name"),
        ("/jobs/done/export?format=mask&segment=-1", 422, "invalid_request", "segment"),
        ("/jobs/done/export?format=mask&segment=2", 404, "asset_not_found", "it has 2"),
        ("/jobs/queued/export?format=coco", 409, "job_in_progress", "queued"),
        ("/jobs/failed/export?format=coco", 409, "job_failed", "not_an_image"),
        ("/jobs/nobody/export?format=coco", 404, "job_not_found", "nobody"),
        ("/jobs/a.b/export?format=coco", 422, "invalid_uuid", "a.b"),
    ],
)
def test_a_refusal_says_what_is_wrong(
    client: httpx.Client, path: str, status: int, code: str, words: str
) -> None:
    response = client.get(path)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert words in response.json()["error"]


def test_an_unknown_format_is_told_all_that_there_are(client: httpx.Client) -> None:
    sentence = client.get("/jobs/done/export?format=svg").json()["error"]
    assert all(name in sentence for name in FORMATS)


def test_a_missing_file_is_not_half_an_answer(serve: Serve, api_store: Store) -> None:
    """The job may be expiring."""
    client = serve()
    send(client, "torn")
    finish_job(api_store, "torn", DRAWING, OTHER)
    api_store.delete(keys.mask("torn", 1))
    for name in FORMATS:
        response = client.get("/jobs/torn/export", params=asked(name))
        assert (response.status_code, response.json()["code"]) == (404, "asset_not_found"), name


def test_it_needs_a_key_as_the_answer_does(serve: Serve, api_store: Store) -> None:
    client = serve(api_keys="shop:key", wait_seconds=0)
    client.post("/segment?uuid=mine", content=picture_bytes(), headers={"x-api-key": "key"})
    finish_job(api_store, "mine", DRAWING)
    path = "/jobs/mine/export?format=coco"
    assert client.get(path).json()["code"] == "unauthorized"
    assert client.get(path, headers={"x-api-key": "key"}).status_code == 200


def test_turns_come_back_whatever_clients_do(serve: Serve, api_store: Store) -> None:
    client = serve(max_exports=1)
    send(client, "job")
    finish_job(api_store, "job", DRAWING)
    for _ in range(3):
        with client.stream("GET", "/jobs/job/export?format=masks"):
            pass  # goes without having read
        client.head("/jobs/job/export?format=masks")
        client.get("/jobs/job/export?format=svg")
    assert client.get("/jobs/job/export?format=coco").status_code == 200


def test_the_document_names_every_format(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/jobs/{uuid}/export"]["get"]
    assert all(f"- `{name}`: " in operation["responses"]["200"]["description"] for name in FORMATS)
    assert set(operation["responses"]["200"]["content"]) == {
        each.media_type for each in FORMATS.values()
    }
    assert document["components"]["schemas"]["FormatName"]["enum"] == [*FORMATS]
