"""A batch on the whole service: killed half way, run again from Dagster, told of once; and who
goes before it."""

import io
import secrets
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from pycocotools.coco import COCO

from seg_client import is_genuine
from seg_pipeline.local.sample import BUNDLED
from seg_pipeline_tests.app_servers import AppServerDouble, app_server
from seg_pipeline_tests.running_stack import Stack
from seg_pipeline_tests.serving import serving

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")

TOTAL, MISSING, PAGE = 24, (3, 17), 11
SECRET = "s3cret"


@dataclass
class Host:
    """A host of pictures, of which some are not there at first, one of them with a page."""

    url: str = ""
    missing: set[str] = field(default_factory=lambda: {f"/{index}.jpg" for index in MISSING})

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        """Answers a request."""
        if environ["PATH_INFO"] in self.missing:
            is_page = environ["PATH_INFO"] == f"/{PAGE}.jpg"
            start_response("200 OK" if is_page else "404 Not Found", [])
            return [b"<html>try later</html>"]
        body = BUNDLED.read_bytes()
        size = ("Content-Length", str(len(body)))
        start_response("200 OK", [("Content-Type", "image/jpeg"), size])
        return [body]


@dataclass
class World:
    """The service, a host of pictures and an app server."""

    stack: Stack
    host: Host
    told: AppServerDouble

    def batch(self) -> dict[str, Any]:
        """The batch as the service tells of it."""
        address = f"{self.stack.base_url}/batches/summer"
        batch: dict[str, Any] = httpx.get(address, timeout=30).json()
        return batch

    def ended(self) -> int:
        """How many of its pictures have ended."""
        try:
            counts = self.batch()["counts"]
        except httpx.HTTPError:
            return 0
        return int(counts["completed"]) + int(counts["failed"])

    def wait_for_ends(self, least: int) -> None:
        """Returns once so many pictures have ended."""
        self.stack.wait_for(lambda: self.ended() >= least, f"{least} ends")


@contextmanager
def world(folder: Path, profile: str) -> Iterator[World]:
    """Everything, while the block runs."""
    host = Host()
    with serving(host) as url, app_server() as told:
        host.url = url
        settings = {
            "MODEL": "demo-yolo",
            "ALLOW_PRIVATE_URLS": "true",
            "APP_SERVER_URL": told.url,
            "CALLBACK_SECRET": SECRET,
            "HEALTH_IDLE_SECONDS": "0",
            "BATCH_SIZE": "4",
        }
        with Stack(folder, settings, profile) as stack:
            yield World(stack, host, told)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_batch_outlives_every_process_and_what_failed_runs_again_from_dagster(
    tmp_path: Path, profile: str
) -> None:
    with world(tmp_path, profile) as here:
        addresses = [f"{here.host.url}/{index}.jpg" for index in range(TOTAL)]
        body = {"uuid": "summer", "image_urls": addresses}
        answer = httpx.post(f"{here.stack.base_url}/batches", json=body, timeout=30)
        assert answer.status_code == 202
        kill_all_in_turn(here)
        here.stack.wait_for(lambda: here.told.told != [], "telling the app server")
        look_at_the_end(here)
        here.host.missing.clear()
        again = {"batch": "summer", "dry_run": False}
        here.stack.launch("rerun_batch", {"ops": {"rerun_failed_of_batch": {"config": again}}})
        here.stack.wait_for(
            lambda: here.told.told[-1].document["completed"] == TOTAL, "telling of the new end"
        )
        assert here.batch()["counts"]["completed"] == TOTAL
        assert names_in_coco(here, tmp_path / "coco.json") == addresses


def kill_all_in_turn(here: World) -> None:
    """Kills each process after some more pictures, and waits for the end of the batch."""
    least = 0
    for name in ("code-server", "worker", "daemon", "fetcher", "api"):
        least += 3
        here.wait_for_ends(least)
        here.stack.kill(name)
    here.wait_for_ends(TOTAL)


def look_at_the_end(here: World) -> None:
    """Each picture has one job, all are counted, and the app server was told of one end.

    It hears of it twice if what told it was killed before it had written that down.
    """
    counts = here.batch()["counts"]
    assert (counts["completed"], counts["failed"]) == (TOTAL - len(MISSING), len(MISSING))
    assert len([*(here.stack.data_dir / "assets").glob("batch-summer-*")]) == TOTAL
    (body,) = {told.body for told in here.told.told}
    assert all(is_genuine(SECRET, told.headers, body) for told in here.told.told)
    assert here.told.told[0].document["failed"] == len(MISSING)


def names_in_coco(here: World, path: Path) -> list[str]:
    """The pictures of the batch's file, as pycocotools reads it; each has segments."""
    export = httpx.get(f"{here.stack.base_url}/batches/summer/export?format=coco", timeout=60)
    path.write_bytes(export.content)
    coco = COCO(path)
    assert all(coco.getAnnIds(imgIds=[number]) for number in coco.getImgIds())
    return [image["file_name"] for image in coco.loadImgs(coco.getImgIds())]


@pytest.mark.slow
def test_an_upload_goes_before_the_rest_of_a_batch(stack: Stack) -> None:
    url = f"{stack.base_url}/batches/{secrets.token_hex(8)}"
    answer = httpx.post(
        f"{stack.base_url}/batches",
        params={"uuid": url.rpartition("/")[2], "model": "demo-yolo"},
        headers={"Content-Type": "application/zip"},
        content=zip_of_samples(60),
        timeout=60,
    )
    assert answer.status_code == 202, answer.text

    def count(state: str) -> int:
        return int(httpx.get(url, timeout=60).json()["counts"][state])

    stack.wait_for(lambda: count("completed") > 0, "a picture of the batch")
    stack.send_sample()
    assert count("waiting") + count("queued") + count("processing") > 0
    httpx.delete(url, timeout=60)
    stack.wait_for(lambda: httpx.get(url, timeout=60).json()["completed_at"], "the batch's end")
    assert count("failed") == 0
    httpx.delete(url, timeout=60)


def zip_of_samples(number: int) -> bytes:
    """The bundled picture under many names."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for index in range(number):
            archive.writestr(f"{index}.jpg", BUNDLED.read_bytes())
    return data.getvalue()
