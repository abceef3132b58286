"""The work on batches: portions, counts, ends; and what a crash leaves behind."""

from datetime import timedelta

import pytest

from seg_pipeline.errors import UnexpectedError
from seg_pipeline.jobs.acceptance import fingerprint
from seg_pipeline.jobs.batch_records import BatchStatus, Entry
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.pipeline.stages import fail_job
from seg_pipeline.store import Store, keys
from seg_pipeline_tests.builders import (
    NOON,
    error_of,
    make_job,
    make_picture,
    make_result,
    picture_bytes,
    waiting_uuids,
)
from seg_pipeline_tests.jobs.batches_in_store import (
    ID,
    accept_batch,
    advance,
    finish_again,
    finish_waiting,
    make_batch,
    make_entries,
)
from seg_pipeline_tests.unreliable import Killed, UnreliableStore

MINUTE = timedelta(minutes=1)


def news(repository: JobRepository) -> list[str]:
    """The markers of work."""
    return [info.key for info in repository.store.list(keys.BATCH_WORK)]


def test_entries_become_jobs_as_they_were_asked_for(repository: JobRepository) -> None:
    accept_batch(repository, parameters={"confidence": 0.5}, resize=64, rle=True)
    assert advance(repository).states == "ooo"
    job = repository.job(f"batch-{ID}-000002")
    assert (job.image_url, job.resize, job.rle) == ("https://pictures.example/2.png", 64, True)
    assert (job.parameters, job.via, job.callback) == ({"confidence": 0.5}, "batch", False)


def test_no_more_jobs_are_under_way_than_the_window_has(repository: JobRepository) -> None:
    """So that the jobs of others need not wait for thousands."""
    accept_batch(repository, 30)
    assert advance(repository, window=10).states == "o" * 10 + "." * 20
    assert advance(repository, window=10).states == "o" * 10 + "." * 20
    finish_waiting(repository)
    assert advance(repository, window=10).states == "c" * 10 + "o" * 10 + "." * 10


def test_batches_share_the_window(repository: JobRepository) -> None:
    for name in ("a", "b"):
        batch = make_batch(30, id=name)
        repository.batches.accept(batch, make_entries(30))
    repository.batch_work.advance(20, NOON)
    progress = [repository.batches.progress(repository.batches.get(name)) for name in ("a", "b")]
    assert [each.states.count("o") for each in progress] == [10, 10]


def test_ends_are_counted_and_the_last_one_ends_the_batch(repository: JobRepository) -> None:
    accept_batch(repository)
    advance(repository)
    finish_waiting(repository, failing=(f"batch-{ID}-000001",))
    progress = advance(repository, after=MINUTE)
    assert progress.states == "cfc"
    assert (progress.status, progress.ended_at) == (BatchStatus.COMPLETED, NOON + MINUTE)
    assert news(repository) == []


def test_a_lost_marker_holds_up_no_batch(repository: JobRepository) -> None:
    accept_batch(repository)
    advance(repository)
    finish_waiting(repository)
    for key in news(repository):
        if "@" in key:
            repository.store.delete(key)
    assert advance(repository).ended_at is None
    assert advance(repository, look=True).states == "ccc"


def test_a_job_that_is_deleted_counts_as_cancelled(repository: JobRepository) -> None:
    accept_batch(repository)
    advance(repository)
    repository.removal.delete(f"batch-{ID}-000001")
    finish_waiting(repository)
    progress = advance(repository, look=True)
    assert (progress.states, progress.status) == ("cxc", BatchStatus.CANCELLED)


def test_progress_that_a_power_cut_took_is_made_again(repository: JobRepository) -> None:
    accept_batch(repository)
    advance(repository)
    finish_waiting(repository)
    advance(repository, window=0)
    repository.store.put(keys.batch_progress(ID), b"")
    repository.store.put(keys.batch_work(ID), b"")
    advance(repository)
    assert advance(repository, look=True).states == "ccc"
    assert waiting_uuids(repository) == []


def test_a_job_that_cannot_be_is_a_failure_with_its_reason(repository: JobRepository) -> None:
    accept_batch(repository)
    stranger = make_job(f"batch-{ID}-000001", image_url="https://pictures.example/other.png")
    repository.acceptance.accept(stranger)
    progress = advance(repository)
    assert progress.states == "ofo"
    assert progress.refused[1].code == "job_conflict"


def test_cancelling_ends_what_has_not_ended(repository: JobRepository) -> None:
    batch = accept_batch(repository, 30)
    advance(repository, window=10)
    repository.batches.cancel(batch)
    progress = advance(repository, window=10)
    assert progress.states == "o" * 10 + "x" * 20
    progress = advance(repository, window=10)
    assert (progress.states, progress.status) == ("x" * 30, BatchStatus.CANCELLED)
    assert error_of(repository, batch.uuid(0)).code == "cancelled"
    assert repository.fetches.uuids() == []


def test_a_job_that_a_worker_has_is_asked_to_stop(repository: JobRepository) -> None:
    batch = accept_batch(repository, 1)
    advance(repository)
    repository.store.delete(keys.fetching(batch.uuid(0)))
    repository.store.put(keys.inflight(batch.uuid(0)), b"{}")
    repository.batches.cancel(batch)
    assert advance(repository).ended_at is None
    assert repository.cancels.requested([batch.uuid(0)]) == {batch.uuid(0)}


def test_what_was_run_again_is_counted_after_the_end(repository: JobRepository) -> None:
    """The batch is then in work until it rests, so that its new end is told once."""
    batch = accept_batch(repository)
    advance(repository)
    finish_waiting(repository, failing=(batch.uuid(0), batch.uuid(1)))
    advance(repository)
    finish_again(repository, batch.uuid(0), NOON + MINUTE)
    assert advance(repository, after=MINUTE).states == "cfc"
    assert news(repository) == [keys.batch_work(ID)]
    advance(repository, after=MINUTE + timedelta(seconds=5))
    assert news(repository) == [keys.batch_work(ID)]
    advance(repository, after=2 * MINUTE)
    assert news(repository) == []


def test_news_of_a_batch_that_is_gone_is_dropped(repository: JobRepository) -> None:
    batch = accept_batch(repository)
    advance(repository)
    finish_waiting(repository)
    repository.batches.forget(batch.id)
    repository.batch_work.advance(10, NOON)
    assert news(repository) == []


def test_work_killed_at_any_write_loses_and_doubles_nothing(store: Store) -> None:
    """The next process goes on; in the end each entry has one job, all are counted, and all who are
    to be told will be."""
    healthy = JobRepository(store)
    for lives in range(60):
        batch = accept_batch(healthy, callback=True, webhook="https://hooks.example.com/")
        dying = JobRepository(UnreliableStore(store, lives))
        try:
            advance(dying)
            finish_waiting(healthy, failing=(batch.uuid(1),))
            advance(dying)
        except Killed:
            for _ in range(3):
                advance(healthy, look=True)
                finish_waiting(healthy, failing=(batch.uuid(1),))
            advance(healthy, after=MINUTE, look=True)
            is_over = False
        else:
            is_over = True
        progress = healthy.batches.progress(batch)
        assert progress.states == "cfc", f"killed before write {lives}"
        assert news(healthy) == [], f"killed before write {lives}"
        assert len(store.list_folders(keys.ASSETS)) == 3
        for queue, name in (
            (keys.OUTBOX, keys.told_batch(ID)),
            (*healthy.outbox.webhook_queues(), keys.batch_webhook(ID)),
        ):
            waiting = healthy.outbox.waiting(NOON + MINUTE, 10, queue)
            assert {each.uuid for each in waiting} == {name}, f"killed before write {lives}"
        healthy.batches.delete(batch)
        if is_over:
            return
    pytest.fail("it never got through")


def test_pictures_of_a_zip_become_their_jobs_sources_and_go(repository: JobRepository) -> None:
    pictures = [picture_bytes(make_picture(seed=seed)) for seed in range(10)]
    entries = []
    for index, data in enumerate(pictures):
        sha256 = fingerprint(data)
        entries.append(Entry(f"{index}.png", sha256=sha256, extension="png"))
        repository.store.put(keys.batch_picture(ID, index, sha256), data)
    batch = repository.batches.accept(make_batch(10), entries).batch
    assert advance(repository).states == "o" * 8 + ".."
    assert advance(repository).states == "o" * 10
    assert repository.store.get(keys.source(batch.uuid(9), "png")) == pictures[9]
    assert repository.store.list(f"{keys.BATCHES}{ID}/pictures/") == []


def test_a_picture_that_is_gone_is_a_failure_with_its_reason(repository: JobRepository) -> None:
    repository.batches.accept(make_batch(1), [Entry("a.png", sha256="ab" * 32, extension="png")])
    progress = advance(repository)
    assert (progress.states, progress.refused[0].code) == ("f", "object_not_found")


def test_a_failure_of_ours_is_no_cancellation(repository: JobRepository) -> None:
    batch = accept_batch(repository, 1)
    advance(repository)
    fail_job(repository, batch.uuid(0), UnexpectedError("x"))
    assert advance(repository).states == "f"


def test_an_end_after_a_rerun_is_told_of_when_its_backfill_is_over(
    repository: JobRepository,
) -> None:
    batch = accept_batch(repository, callback=True)
    advance(repository)
    finish_waiting(repository, failing=(batch.uuid(0), batch.uuid(1)))
    advance(repository)
    first = repository.outbox.delivery(keys.told_batch(ID))
    repository.batches.note_rerun(batch, "backfill-1")
    for minute, uuid in enumerate((batch.uuid(0), batch.uuid(1)), 1):
        finish_again(repository, uuid, NOON + minute * MINUTE)
        advance(repository, after=minute * MINUTE, is_backfill_over=lambda _: False)
        advance(repository, after=minute * MINUTE + MINUTE / 2, is_backfill_over=lambda _: False)
        assert repository.outbox.delivery(keys.told_batch(ID)) == first
    advance(repository, after=4 * MINUTE)
    assert advance(repository, after=4 * MINUTE).states == "ccc"
    second = repository.outbox.delivery(keys.told_batch(ID))
    assert first is not None
    assert second is not None
    assert second.result_sha256 != first.result_sha256
    assert news(repository) == []


def test_a_batch_that_nobody_is_told_of_has_no_delivery(repository: JobRepository) -> None:
    accept_batch(repository)
    advance(repository)
    finish_waiting(repository)
    advance(repository)
    assert repository.store.list(keys.OUTBOX) == []


def test_what_a_picture_takes_is_noted(repository: JobRepository) -> None:
    batch = accept_batch(repository)
    advance(repository)
    assert repository.batches.picture_seconds(ID) is None
    for index, seconds in enumerate((0.1, 0.2, 0.9)):
        result = make_result(batch.uuid(index), seconds={"segments": seconds, "cutouts": 0.5})
        repository.results.finish(result)
    assert advance(repository).picture_seconds == 0.7
    assert repository.batches.picture_seconds(ID) == 0.7
