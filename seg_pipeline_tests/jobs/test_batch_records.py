"""Figures of a batch, from its letters and samples."""

from datetime import timedelta

import pytest

from seg_pipeline.domain import batch_of, batch_uuid, check_uuid, index_in_batch
from seg_pipeline.jobs.batch_records import BatchProgress, EntryState
from seg_pipeline_tests.builders import NOON
from seg_pipeline_tests.jobs.batches_in_store import make_batch

SECOND = timedelta(seconds=1)


def test_a_batch_s_jobs_have_uuids_that_follow_from_it() -> None:
    uuid = make_batch(id="x" * 51).uuid(123_456)
    assert check_uuid(uuid) == batch_uuid("x" * 51, 123_456)
    assert (batch_of(uuid), index_in_batch(uuid)) == ("x" * 51, 123_456)


@pytest.mark.parametrize(
    "uuid", ["job-1", "batch-1", "batch-a-12345", "order-000001", "batch--000001"]
)
def test_other_uuids_belong_to_no_batch(uuid: str) -> None:
    assert batch_of(uuid) is None


def test_entries_are_found_by_their_state_in_order() -> None:
    progress = BatchProgress("cf.fof", NOON)
    assert progress.indices(EntryState.FAILED) == [1, 3, 5]
    assert progress.indices(EntryState.FAILED, limit=1, after=1) == [3]
    assert (progress.ended, progress.is_over) == (4, False)


def test_the_rate_is_that_of_the_last_minute() -> None:
    """After a night without workers, it is soon right again."""
    progress = BatchProgress.begin(make_batch(1000))
    for turn in range(20):
        states = dict.fromkeys(range(20 * turn), EntryState.COMPLETED)
        progress = progress.with_states(states, NOON).sampled(NOON + 10 * turn * SECOND)
    assert len(progress.samples) == 7
    assert progress.per_second(NOON + 190 * SECOND) == pytest.approx(2.0)


def test_without_time_there_is_no_rate() -> None:
    assert BatchProgress.begin(make_batch()).per_second(NOON) == 0
    assert BatchProgress.begin(make_batch()).sampled(NOON).per_second(NOON) == 0
