"""When the sensor takes what waits, and how it shares it out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg_pipeline.batching import may_claim, split_into_batches


@pytest.mark.parametrize(
    ("waiting", "in_progress", "workers", "claimed"),
    [
        (0, 0, 1, False),
        (1, 0, 1, True),
        (1, 1, 1, True),
        (1, 2, 1, False),
        (31, 2, 1, False),
        (32, 2, 1, True),
        (5, 3, 2, True),
        (1, 1, 0, True),
    ],
)
def test_a_lone_job_goes_at_once_and_a_backlog_grows_to_a_batch(
    waiting: int, in_progress: int, workers: int, claimed: bool
) -> None:
    assert may_claim(waiting, in_progress, workers, batch_size=32) is claimed


@given(st.integers(0, 300), st.integers(0, 9), st.integers(1, 64))
def test_batches_hold_every_job_once_and_in_order(jobs: int, workers: int, batch_size: int) -> None:
    uuids = [f"job-{index}" for index in range(jobs)]
    batches = split_into_batches(uuids, workers, batch_size)
    assert [uuid for batch in batches for uuid in batch] == uuids
    assert all(0 < len(batch) <= batch_size for batch in batches)


def test_jobs_are_shared_evenly_over_the_workers() -> None:
    assert [len(batch) for batch in split_into_batches(["job"] * 40, workers=2, batch_size=32)] == [20, 20]
