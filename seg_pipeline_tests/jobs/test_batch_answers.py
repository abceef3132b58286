"""What is told of a batch."""

from datetime import timedelta

from seg_pipeline.jobs.batch_answers import batch_answer, batch_end
from seg_pipeline.jobs.batch_records import BatchProgress, EntryState
from seg_pipeline.store.serialization import to_document
from seg_pipeline_tests.builders import NOON
from seg_pipeline_tests.jobs.batches_in_store import make_batch

SECOND = timedelta(seconds=1)


def test_the_counts_are_the_total() -> None:
    batch = make_batch(7)
    answer = batch_answer(batch, BatchProgress("..oocfx", NOON), NOON, {batch.uuid(3), "other"})
    counts = to_document(answer)["counts"]
    assert counts == {
        "waiting": 2,
        "queued": 1,
        "processing": 1,
        "completed": 1,
        "failed": 1,
        "cancelled": 1,
    }
    assert sum(counts.values()) == answer.total


def test_the_time_that_is_left_follows_from_the_rate() -> None:
    batch = make_batch(4)
    begun = BatchProgress.begin(batch).sampled(NOON)
    half = begun.with_states({0: EntryState.COMPLETED, 1: EntryState.FAILED}, NOON)
    answer = batch_answer(batch, half, NOON + 10 * SECOND)
    assert (answer.per_second, answer.eta_seconds) == (0.2, 10.0)
    assert batch_answer(batch, begun, NOON).eta_seconds is None


def test_the_end_names_where_the_results_are() -> None:
    end = to_document(batch_end(make_batch(3), BatchProgress("cfc", NOON, NOON), "http://seg/"))
    assert (end["uuid"], end["status"], end["completed"], end["failed"]) == (
        "summer",
        "completed",
        2,
        1,
    )
    assert end["export_url"] == "http://seg/batches/summer/export?format=coco"
    assert end["expires_at"] == (NOON + timedelta(hours=1)).isoformat()
