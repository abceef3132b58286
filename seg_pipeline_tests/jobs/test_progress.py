"""The note on how far a worker has come, which goes with the job's end."""

from collections.abc import Callable

import pytest

from seg_pipeline.jobs.progress import Progress
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import keys
from seg_pipeline.store.serialization import read, write
from seg_pipeline_tests.builders import NOON, make_job, make_result

ENDS: list[Callable[[JobRepository], object]] = [
    lambda repository: repository.results.finish(make_result()),
    lambda repository: repository.cancels.end("job-1"),
    lambda repository: repository.removal.delete("job-1"),
]


@pytest.mark.parametrize("end", ENDS, ids=["finished", "cancelled", "deleted"])
def test_it_is_gone_when_the_job_has_ended(
    repository: JobRepository, end: Callable[[JobRepository], object]
) -> None:
    """Even if the worker that wrote it died."""
    repository.acceptance.accept(make_job(), b"picture")
    repository.store.put(keys.progress("job-1"), write(Progress("segments", NOON, 1, 2)))
    end(repository)
    assert repository.store.list(keys.PROGRESS) == []


@pytest.mark.parametrize("progress", [Progress("cutouts", NOON), Progress("segments", NOON, 0, 9)])
def test_it_is_read_as_it_was_written(progress: Progress) -> None:
    assert read(Progress, write(progress)) == progress
