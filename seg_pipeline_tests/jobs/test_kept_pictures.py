import pytest

from seg_pipeline.errors import PictureNotKept
from seg_pipeline.jobs.acceptance import fingerprint
from seg_pipeline.jobs.kept_pictures import kept_picture
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline_tests.builders import make_job, picture_bytes

PICTURE = picture_bytes()


@pytest.fixture
def store() -> Store:
    return ObjectStore.in_memory()


def accept(store: Store, uuid: str, **asked: str) -> None:
    if "image_url" in asked:
        JobRepository(store).acceptance.accept(make_job(uuid, **asked))
    else:
        job = make_job(uuid, source_sha256=fingerprint(PICTURE))
        JobRepository(store).acceptance.accept(job, PICTURE)


def picture(store: Store, uuid: str) -> bytes:
    return b"".join(kept_picture(store, uuid))


def test_an_upload_is_there_from_its_acceptance_to_its_deletion(store: Store) -> None:
    accept(store, "a")
    assert picture(store, "a") == PICTURE
    JobRepository(store).removal.delete("a")
    with pytest.raises(PictureNotKept, match="the picture of job a is not kept"):
        kept_picture(store, "a")


def test_a_fetched_picture_is_there_once_a_run_has_stored_it(store: Store) -> None:
    accept(store, "a", image_url="https://example.com/a.png")
    with pytest.raises(PictureNotKept, match="has none yet"):
        kept_picture(store, "a")
    store.put(keys.source("a", "png"), PICTURE)
    store.put(keys.source_info("a"), b'{"extension": "png", "width": 3}')
    assert picture(store, "a") == PICTURE


def test_a_job_whose_bytes_are_gone_has_no_picture(store: Store) -> None:
    accept(store, "a")
    store.delete(keys.source("a", "png"))
    with pytest.raises(PictureNotKept):
        kept_picture(store, "a")
