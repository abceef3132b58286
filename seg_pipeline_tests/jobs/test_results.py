"""Jobs end, once or several times."""

from datetime import timedelta
from typing import Any

import pytest

from seg_pipeline.domain import JobStatus
from seg_pipeline.jobs.records import FailureReason, Result
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.jobs.results import count_end
from seg_pipeline.store import keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline.store.serialization import write
from seg_pipeline_tests.builders import (
    NOON,
    make_queue_job,
    make_result,
    waiting_uuids,
)
from seg_pipeline_tests.jobs.jobs_in_store import (
    AN_HOUR,
    LATER,
    accept,
    all_keys,
    everything,
    finish,
)
from seg_pipeline_tests.telemetry.test_metrics import counted
from seg_pipeline_tests.unreliable import Meanwhile, UnreliableStore

END = NOON.replace(year=2100)


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_a_finished_job_has_its_document_and_its_markers(
    repository: JobRepository, status: str
) -> None:
    accept(repository, "a")
    repository.claims.claim(["a"], "a:1")
    assert repository.result("a") is None
    result = make_result("a", status, LATER, model="ü")
    assert repository.results.finish(result)
    assert repository.result("a") == result
    assert repository.status("a") is JobStatus(status)
    assert all_keys(repository) == {
        "assets/a/request.json",
        "assets/a/source.png",
        "assets/a/result.json",
        f"done/{status}/a",
        keys.expiry(int(LATER.timestamp()), "a"),
    }


def test_finishing_twice_is_finishing_once(repository: JobRepository) -> None:
    finish(repository, "a")
    before = all_keys(repository)
    repository.results.finish(make_result("a", "completed", LATER))
    assert all_keys(repository) == before


def test_a_rerun_replaces_status_and_expiry(repository: JobRepository) -> None:
    finish(repository, "a", status="failed")
    repository.results.finish(make_result("a", "completed", LATER + AN_HOUR))
    assert repository.status("a") is JobStatus.COMPLETED
    markers = {key for key in all_keys(repository) if not key.startswith(keys.ASSETS)}
    assert markers == {"done/completed/a", keys.expiry(int((LATER + AN_HOUR).timestamp()), "a")}


def test_of_two_runs_that_finish_a_job_at_once_the_last_word_counts_everywhere() -> None:
    """Markers and result must not tell different stories."""

    class Meanwhile(UnreliableStore):
        def put(self, key: str, data: bytes) -> None:
            self._store.put(key, data)
            if key == keys.result("a"):
                JobRepository(self._store).results.finish(
                    make_result("a", "failed", LATER + AN_HOUR)
                )

    repository = JobRepository(ObjectStore.in_memory())
    accept(repository, "a")
    JobRepository(Meanwhile(repository.store)).results.finish(make_result("a", "completed", LATER))
    assert repository.status("a") is JobStatus.FAILED
    assert everything(repository) == [("a", "failed")]
    assert [*repository.expiry.expired(LATER, 10)] == []
    assert len([*repository.expiry.expired(LATER + AN_HOUR, 10)]) == 1


def test_of_several_runs_that_were_asked_for_the_first_to_finish_a_job_has_the_word(
    repository: JobRepository,
) -> None:
    """A worker that only seemed dead finishes it too. The app server must not hear another story
    from each."""
    repository.acceptance.accept(make_queue_job("a"))
    repository.results.finish(make_result("a", "completed", LATER, width=1), keep_earlier=True)
    first, delivery = repository.result("a"), repository.outbox.delivery("a")
    assert repository.results.finish(
        make_result("a", "failed", LATER + AN_HOUR, width=2), keep_earlier=True
    )
    assert (repository.result("a"), repository.outbox.delivery("a")) == (first, delivery)
    assert repository.status("a") is JobStatus.COMPLETED


@pytest.mark.parametrize("moment", range(12))
def test_of_two_runs_that_finish_a_job_at_once_one_has_the_word_everywhere(moment: int) -> None:
    """Whatever the other has done by then: one result, one delivery, which is of that result."""
    repository = JobRepository(ObjectStore.in_memory())
    repository.acceptance.accept(make_queue_job("a"))

    def other() -> None:
        repository.results.finish(
            make_result("a", "failed", LATER + AN_HOUR, width=2), keep_earlier=True
        )

    ours = JobRepository(Meanwhile(repository.store, moment, other))
    ours.results.finish(make_result("a", "completed", LATER, width=1), keep_earlier=True)
    told = [
        due_delivery
        for marker in repository.outbox.waiting(END, 10)
        if (due_delivery := repository.outbox.take(marker, END))
    ]
    assert [due_delivery.result for due_delivery in told] == [repository.result("a")]
    assert {keys.done(str(repository.status("a")), "a")} == {
        key for key in all_keys(repository) if key.startswith(keys.DONE)
    }


def test_a_result_that_a_power_cut_left_empty_is_written_again(repository: JobRepository) -> None:
    accept(repository, "a")
    repository.store.put(keys.result("a"), b"")
    repository.results.finish(make_result("a", "completed", LATER), keep_earlier=True)
    assert repository.status("a") is JobStatus.COMPLETED


def test_a_job_that_nobody_claimed_may_be_finished(repository: JobRepository) -> None:
    """An operator materialises its partition while it waits."""
    accept(repository, "a")
    repository.results.finish(make_result("a", "completed", LATER))
    assert waiting_uuids(repository, 10) == []
    assert repository.status("a") is JobStatus.COMPLETED


def test_a_job_that_was_deleted_while_it_was_worked_on_stays_deleted(
    repository: JobRepository,
) -> None:
    """Its worker knew nothing of it, and has written files since."""
    accept(repository, "a")
    repository.claims.claim(["a"], "a:1")
    repository.removal.delete("a")
    repository.store.put(keys.mask("a", 0), b"mask")
    assert not repository.results.finish(make_result("a", "completed", LATER))
    assert all_keys(repository) == set()


@pytest.mark.parametrize("status", ["queued", "processing", "done"])
def test_a_job_ends_completed_or_failed(repository: JobRepository, status: str) -> None:
    accept(repository, "a")
    with pytest.raises(ValueError, match=status):
        repository.results.finish(make_result("a", status, LATER))
    assert repository.result("a") is None


def test_a_time_to_live_is_never_cut_short(repository: JobRepository) -> None:
    expires_at = NOON + timedelta(milliseconds=1)
    finish(repository, "a", expires_at=expires_at)
    assert [*repository.expiry.expired(NOON, 10)] == []
    assert [job.uuid for job in repository.expiry.expired(NOON + timedelta(seconds=1), 10)] == ["a"]


def test_settling_completes_what_a_dead_worker_began(repository: JobRepository) -> None:
    accept(repository, "a", "b")
    repository.claims.claim(["a", "b"], "a:1")
    repository.store.put(keys.result("a"), write(make_result("a", expires_at=LATER)))
    assert repository.results.settle("a")
    assert not repository.results.settle("b")
    assert [claim.uuid for claim in repository.claims.inflight()] == ["b"]
    assert {"done/completed/a", keys.expiry(int(LATER.timestamp()), "a")} <= all_keys(repository)


@pytest.mark.parametrize(
    "document",
    [b"", b"{", b"[]", b"{}", b'{"status": "completed"}', b'{"status": 1, "expires_at": 2}'],
)
def test_an_unreadable_result_is_none(repository: JobRepository, document: bytes) -> None:
    """After a power cut it may be empty; the job is then run again."""
    accept(repository, "a")
    (claim,) = repository.claims.claim(["a"], "a:1")
    repository.store.put(keys.result("a"), document)
    assert repository.result("a") is None
    assert repository.status("a") is JobStatus.QUEUED
    assert not repository.results.settle("a")
    assert repository.claims.reclaim(claim.after_loss(LATER))


def make_ended(after_seconds: float = 3, **fields: Any) -> Result:
    """A job that ended so long after its acceptance."""
    return make_result(completed_at=NOON + timedelta(seconds=after_seconds), **fields)


@pytest.mark.parametrize(("code", "fault"), [("worker_lost", "ours"), ("not_an_image", "client")])
def test_a_failed_job_is_counted_with_whose_fault_it_was(code: str, fault: str) -> None:
    labels = {"status": "failed", "code": code, "fault": fault, "model": "demo-yolo", "via": "sqs"}
    before = (
        counted("seg_jobs_finished_total", **labels),
        counted("seg_own_failures_total", code=code),
    )
    count_end(make_ended(status="failed", error=FailureReason(code, "So.")), "sqs")
    after = (
        counted("seg_jobs_finished_total", **labels),
        counted("seg_own_failures_total", code=code),
    )
    assert (after[0] - before[0], after[1] - before[1]) == (1, fault == "ours")


def test_a_completed_job_is_counted_with_its_stages_and_its_time() -> None:
    names = (
        ("seg_job_seconds_sum", {"status": "completed", "via": "http"}),
        ("seg_stage_seconds_sum", {"stage": "cutouts"}),
    )
    before = [counted(name, **labels) for name, labels in names]
    count_end(make_ended(seconds={"cutouts": 0.5}), "http")
    assert [counted(name, **labels) for name, labels in names] == [before[0] + 3, before[1] + 0.5]


def test_clocks_that_disagree_count_as_no_time() -> None:
    before = counted("seg_job_seconds_sum", status="failed", via="http")
    count_end(make_ended(-3600, status="failed", error=FailureReason("error", "So.")), "http")
    assert counted("seg_job_seconds_sum", status="failed", via="http") == before
