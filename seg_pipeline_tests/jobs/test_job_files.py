"""The files of one job, by name."""

import pytest

from seg_pipeline.errors import ObjectNotFound
from seg_pipeline.jobs.job_files import JobFiles
from seg_pipeline.store import Store


def test_a_job_s_files_are_read_by_name_whole_and_in_pieces(store: Store) -> None:
    store.put("assets/mine/crops/a.webp", b"a" * 100_000)
    files = JobFiles(store, "mine")
    assert files.get("crops/a.webp") == b"".join(files.stream("crops/a.webp")) == b"a" * 100_000


def test_another_job_s_files_are_not_there(store: Store) -> None:
    store.put("assets/other/a.webp", b"a")
    with pytest.raises(ObjectNotFound):
        JobFiles(store, "mine").get("a.webp")
    with pytest.raises(ObjectNotFound):
        JobFiles(store, "mine").stream("a.webp")
