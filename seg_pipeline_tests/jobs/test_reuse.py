"""Answers from the store: a job of its own with files of its own, whatever becomes of the first."""

import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from seg_pipeline.errors import TruncatedImage
from seg_pipeline.jobs.acceptance import fingerprint
from seg_pipeline.jobs.kept_pictures import kept_picture
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline_tests.api.stand_ins import DRAWING, finish_job
from seg_pipeline_tests.builders import make_job, picture_bytes, result_of, waiting_uuids
from seg_pipeline_tests.unreliable import Killed, Meanwhile, UnreliableStore

OTHER = "#.../..../..../...."


PICTURE = picture_bytes()


def ask(repository: JobRepository, uuid: str, name: str = "question", **asked: object) -> bool:
    """Whether the job has an answer at once."""
    now, sha256 = datetime.now(UTC), fingerprint(PICTURE)
    job = make_job(uuid, accepted_at=now, source_sha256=sha256, **asked)
    assert repository.reuse.accept(job, PICTURE, name).created
    return repository.result(uuid) is not None


def first_done(repository: JobRepository, *drawings: str) -> None:
    """The first job of the question, with its end."""
    assert not ask(repository, "first")
    finish_job(repository.store, "first", *(drawings or (DRAWING, OTHER)))


def files(store: Store, uuid: str) -> dict[str, bytes]:
    prefix = keys.asset(uuid, "")
    infos = store.list(prefix)
    return {info.key.removeprefix(prefix): store.get(info.key) for info in infos}


def test_the_same_question_is_answered_with_files_and_an_end_of_its_own(
    repository: JobRepository,
) -> None:
    first_done(repository)
    assert ask(repository, "again")
    first, again = result_of(repository, "first"), result_of(repository, "again")
    assert again.status == "completed"
    assert [(each.area, each.label) for each in again.segments] == [
        (each.area, each.label) for each in first.segments
    ]
    named = {again.original_key, again.overlay_key, *again.files_of_segments}
    assert all(key and key.startswith("assets/again/") for key in named)
    for one, other in zip(first.segments, again.segments, strict=True):
        assert repository.store.get(one.mask_key) == repository.store.get(other.mask_key)
        assert repository.store.get(one.crop_key) == repository.store.get(other.crop_key)
    assert waiting_uuids(repository) == []
    assert again.expires_at > first.completed_at


def test_the_first_may_go_and_the_second_stays_whole(repository: JobRepository) -> None:
    first_done(repository)
    ask(repository, "again")
    before = files(repository.store, "again")
    repository.removal.delete("first")
    assert files(repository.store, "again") == before
    repository.removal.delete("again")
    assert repository.store.list(keys.ASSETS) == []


def test_what_is_written_over_one_does_not_change_the_other(repository: JobRepository) -> None:
    """In a folder both are names of one file."""
    first_done(repository)
    ask(repository, "again")
    repository.store.put(result_of(repository, "first").segments[0].mask_key, b"other")
    assert repository.store.get(result_of(repository, "again").segments[0].mask_key) != b"other"


def test_another_question_is_not_answered(repository: JobRepository) -> None:
    first_done(repository)
    assert not ask(repository, "again", "another")
    assert waiting_uuids(repository) == ["again"]


def test_an_unfinished_a_failed_and_an_expiring_job_answer_nothing(
    repository: JobRepository,
) -> None:
    assert not ask(repository, "first")
    assert not ask(repository, "second")
    finish_job(repository.store, "second", error=TruncatedImage("It ends."))
    assert not ask(repository, "third")
    ask(repository, "short", "brief", ttl_seconds=20)
    finish_job(repository.store, "short", DRAWING)
    assert not ask(repository, "fourth", "brief")


def test_a_question_whose_job_is_gone_is_noted_anew(repository: JobRepository) -> None:
    first_done(repository)
    repository.removal.delete("first")
    assert not ask(repository, "second")
    finish_job(repository.store, "second", DRAWING)
    assert ask(repository, "third")


def test_a_first_job_that_is_deleted_while_it_is_copied_leaves_the_job_to_a_worker() -> None:
    outcomes = set()
    for moment in range(14):
        store = ObjectStore.in_memory()
        first_done(JobRepository(store))
        racing = Meanwhile(store, moment, partial(JobRepository(store).removal.delete, "first"))
        is_done = ask(JobRepository(racing), "again")
        assert is_done or waiting_uuids(JobRepository(store)) == ["again"]
        assert b"".join(kept_picture(store, "again")) == PICTURE
        outcomes.add(is_done)
    assert outcomes == {True, False}


def test_a_process_that_dies_between_any_two_writes_leaves_what_the_next_request_completes() -> (
    None
):
    for lives in range(60):
        store = ObjectStore.in_memory()
        healthy = JobRepository(store)
        first_done(healthy)
        dying = UnreliableStore(store, lives)
        with suppress(Killed):
            ask(JobRepository(dying), "again")
        result = healthy.result("again")
        if result is not None:
            assert all(store.head(key) for key in result.files_of_segments), lives
        job = make_job("again", source_sha256=fingerprint(PICTURE))
        healthy.reuse.accept(job, PICTURE, "question")
        assert healthy.result("again") or waiting_uuids(healthy) == ["again"], lives
        if dying.lives:
            return
    raise AssertionError("it never came to its end")


def test_a_power_cut_may_take_an_answer_but_no_job_that_waits(
    folder_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is answered at once is not waited for by the disk; what waits for a worker is."""
    synced, sync = list[str](), os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    repository = JobRepository(folder_store)
    first_done(repository)
    assert synced
    synced.clear()
    assert ask(repository, "again")
    assert synced == []
    folder_store.delete(result_of(repository, "first").original_key or "")
    assert not ask(repository, "third")
    assert any("/third/" in name for name in synced)


@pytest.mark.parametrize(("is_there", "forgotten"), [(True, 0), (False, 1)])
def test_a_question_is_forgotten_with_its_job(
    repository: JobRepository, is_there: bool, forgotten: int
) -> None:
    first_done(repository)
    if not is_there:
        repository.removal.delete("first")
    later = datetime.now(UTC) + timedelta(hours=1)
    assert len([*repository.reuse.forgotten(later)]) == forgotten
    assert [*repository.reuse.forgotten(later - timedelta(hours=2))] == []
