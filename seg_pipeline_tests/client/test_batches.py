"""`client.batches` against a served API, whose batches a stand-in advances."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from zipfile import ZipFile

import pytest

from seg_client import ApiError, AsyncClient, WaitTimeout
from seg_client.errors import BatchNotFound, UrlRefused
from seg_pipeline.errors import NotAnImage
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store
from seg_pipeline_tests.api.stand_ins import DRAWING, finish_job
from seg_pipeline_tests.builders import bring_picture, picture_bytes, waiting_uuids
from seg_pipeline_tests.client.conftest import InALoop, Served

ADDRESSES = [f"https://pictures.example/{number}.png" for number in range(3)]


@contextmanager
def working(store: Store, failing: str = "") -> Iterator[None]:
    """Does what sensor, fetcher and worker do, in a thread."""
    repository, stop = JobRepository(store), threading.Event()

    def work() -> None:
        while not stop.wait(0.01):
            repository.batch_work.advance(100, datetime.now(UTC), look=True)
            for uuid in repository.fetches.uuids():
                bring_picture(repository, uuid)
            for claim in repository.claims.claim(waiting_uuids(repository, 10), "fake"):
                error = NotAnImage("This is a text.") if claim.uuid == failing else None
                finish_job(store, claim.uuid, DRAWING, error=error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_list_becomes_one_document(served: Served) -> None:
    client = served.start()
    batch = client.batches.create([*ADDRESSES, "hello"], uuid="summer", model="demo-yolo")
    with working(served.store, failing="batch-summer-000001"):
        document = batch.wait().to_coco()
    assert [image["file_name"] for image in document["images"]] == [ADDRESSES[0], ADDRESSES[2]]
    status = batch.status()
    assert (status.status, status.counts.completed, status.counts.failed) == ("completed", 2, 1)
    assert [problem.where for problem in status.problems] == ["image_urls[3]"]
    (failed,) = batch.jobs("failed")
    assert failed.error is not None
    assert (failed.name, failed.error.code) == (ADDRESSES[1], "not_an_image")
    assert len(client.batches.get("summer").jobs()) == 3


def test_a_zip_is_sent_with_its_options(served: Served, tmp_path: Path) -> None:
    client = served.start()
    with ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/a.png", picture_bytes())
    batch = client.batches.create(tmp_path / "a.zip", parameters={"confidence": 0.5}, rle=True)
    with working(served.store):
        batch.wait()
    (job,) = batch.jobs()
    assert (job.name, job.status) == ("x/a.png", "completed")
    assert JobRepository(served.store).job(job.uuid).parameters == {"confidence": 0.5}


def test_a_webhook_goes_along(served: Served) -> None:
    client = served.start(webhook_hosts="hooks.example.com")
    url = "https://hooks.example.com/batches"
    batch = client.batches.create(ADDRESSES, webhook=url)
    stored = JobRepository(served.store).batches.get(batch.uuid)
    assert stored.webhook == url


def test_a_prefix_is_sent_as_such(served: Served) -> None:
    with pytest.raises(UrlRefused):
        served.start(s3_sources="").batches.create("s3://pictures/summer/")


def test_a_batch_that_takes_too_long_goes_on(served: Served) -> None:
    batch = served.start().batches.create(ADDRESSES)
    with pytest.raises(WaitTimeout) as raised:
        batch.wait(timeout=0)
    assert raised.value.uuid == batch.uuid


def test_a_batch_is_cancelled_and_then_deleted(served: Served) -> None:
    client = served.start()
    batch = client.batches.create(ADDRESSES)
    assert not batch.delete()
    JobRepository(served.store).batch_work.advance(10, datetime.now(UTC))
    assert batch.status().status == "cancelled"
    assert batch.delete()
    with pytest.raises(BatchNotFound):
        batch.status()
    assert batch.delete()


def test_a_refusal_is_raised(served: Served) -> None:
    with pytest.raises(ApiError, match="none of 1 is a picture"):
        served.start().batches.create(["hello"])


def test_the_client_that_awaits_does_the_same(served: Served, in_a_loop: InALoop) -> None:
    served.start()

    async def go() -> tuple[int, int, str]:
        async with AsyncClient(served.url, timeout=20) as client:
            batch = await (await client.batches.create(ADDRESSES)).wait()
            document, jobs = await batch.to_coco(), await batch.jobs("completed")
            status = (await batch.status()).status
            assert await batch.delete()
            return len(document["images"]), len(jobs), status

    with working(served.store):
        assert in_a_loop(go) == (3, 3, "completed")
