"""`GET /batches/{uuid}/export`: one file of all pictures."""

from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pytest
from pycocotools.coco import COCO

from seg_pipeline.errors import NotAnImage
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store
from seg_pipeline_tests.api.serving import Serve
from seg_pipeline_tests.api.stand_ins import DRAWING, finish_job
from seg_pipeline_tests.builders import bits

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")

OTHER = "#.../..../..../...."
PATH = "/batches/summer/export"


@pytest.fixture
def client(serve: Serve) -> httpx.Client:
    """A client of an API that has the batch `summer` of three pictures, one with a name."""
    client = serve()
    urls = [f"https://pictures.example/{number}.png" for number in range(2)]
    named = {"image_url": "s3://pictures/2.png", "name": "third.png"}
    client.post("/batches", json={"uuid": "summer", "image_urls": [*urls, named]})
    return client


def advance(store: Store) -> None:
    JobRepository(store).batch_work.advance(100, datetime.now(UTC), look=True)


@pytest.fixture
def ended(client: httpx.Client, api_store: Store) -> httpx.Client:
    """The same, when the batch has ended; its second picture failed."""
    advance(api_store)
    finish_job(api_store, "batch-summer-000000", DRAWING, OTHER)
    finish_job(api_store, "batch-summer-000001", error=NotAnImage("This is a text."))
    finish_job(api_store, "batch-summer-000002", DRAWING)
    advance(api_store)
    return client


def test_pycocotools_reads_all_that_completed(ended: httpx.Client, tmp_path: Path) -> None:
    answer = ended.get(PATH, params={"format": "coco"})
    disposition = 'attachment; filename="summer.coco.json"'
    assert (answer.status_code, answer.headers["content-disposition"]) == (200, disposition)
    (tmp_path / "coco.json").write_bytes(answer.content)
    coco = COCO(tmp_path / "coco.json")
    names = {number: image["file_name"] for number, image in coco.imgs.items()}
    assert names == {1: "https://pictures.example/0.png", 3: "third.png"}
    assert [len(coco.getAnnIds(imgIds=[number])) for number in (1, 3)] == [2, 1]
    (last,) = coco.loadAnns(coco.getAnnIds(imgIds=[3]))
    assert np.array_equal(coco.annToMask(last).astype(np.bool_), bits(DRAWING))


def test_a_job_that_was_deleted_is_left_out(ended: httpx.Client) -> None:
    ended.delete("/jobs/batch-summer-000000")
    images = ended.get(PATH).json()["images"]
    assert [image["id"] for image in images] == [3]


def test_before_the_end_there_is_no_file(client: httpx.Client) -> None:
    answer = client.get(PATH)
    assert (answer.status_code, answer.json()["code"]) == (409, "job_in_progress")
    assert "3 of 3" in answer.json()["error"]


def test_a_file_that_the_client_has_is_not_made_again(
    ended: httpx.Client, api_store: Store
) -> None:
    etag = ended.head(PATH).headers["etag"]
    assert ended.get(PATH, headers={"If-None-Match": etag}).status_code == 304
    finish_job(api_store, "batch-summer-000001", OTHER)
    advance(api_store)
    again = ended.get(PATH, headers={"If-None-Match": etag})
    assert (again.status_code, len(again.json()["images"])) == (200, 3)


@pytest.mark.parametrize(
    ("path", "status"), [("winter/export", 404), ("summer/export?format=x", 422)]
)
def test_what_there_is_not_is_refused(ended: httpx.Client, path: str, status: int) -> None:
    assert ended.get(f"/batches/{path}").status_code == status
