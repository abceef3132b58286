"""Notes of how far jobs are: written beside the work, the last of many, and nothing after the
end."""

import threading
from pathlib import Path
from typing import Any

import pytest

from seg_pipeline.errors import StoreUnavailable
from seg_pipeline.jobs.progress import Progress, mark_listeners
from seg_pipeline.pipeline import progress_writer, stages
from seg_pipeline.pipeline.progress_writer import ProgressWriter
from seg_pipeline.store import Store, keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline.store.serialization import load
from seg_pipeline_tests.api.serving import eventually
from seg_pipeline_tests.api.stand_ins import FailingStore
from seg_pipeline_tests.builders import accept_upload, make_context
from seg_pipeline_tests.pipeline.test_overlap import run_stages
from seg_pipeline_tests.unreliable import UnreliableStore


@pytest.fixture(autouse=True)
def _look_soon_for_listeners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_writer, "AGAIN_SECONDS", 0.1)


def noted(store: Store, uuid: str = "job-1") -> tuple[str, int | None] | None:
    progress = load(store, Progress, keys.progress(uuid))
    return (progress.stage, progress.done) if progress else None


def heard(store: Any) -> ProgressWriter:
    """A writer whose notes somebody listens for."""
    mark_listeners(store)
    return ProgressWriter(store)


def test_a_note_is_written_and_replaced(store: Store) -> None:
    writer = heard(store)
    writer.note("job-1", "source_image")
    writer.flush()
    assert noted(store) == ("source_image", None)
    writer.note("job-1", "segments", 5, 10)
    writer.note("job-2", "source_image")
    writer.flush()
    assert (noted(store), noted(store, "job-2")) == (("segments", 5), ("source_image", None))


def test_of_a_thousand_notes_few_are_written_and_the_last_one_is() -> None:
    store = UnreliableStore(ObjectStore.in_memory())
    writer = heard(store)
    for done in range(1000):
        writer.note("job-1", "segments", done, 1000)
    writer.flush()
    assert noted(store) == ("segments", 999)
    assert store.calls["put"] < 100


def test_nothing_is_left_after_the_end_and_nothing_comes_later(store: Store) -> None:
    writer = heard(store)
    writer.note("job-1", "segments")
    writer.flush()
    writer.note("job-1", "cutouts")
    writer.end("job-1")
    writer.flush()
    assert store.list(keys.PROGRESS) == []


def test_a_write_under_way_at_the_end_is_undone() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(UnreliableStore):
        def put(self, *arguments: Any) -> None:
            begun.set()
            assert go_on.wait(60)
            self._store.put(*arguments)

    memory = ObjectStore.in_memory()
    mark_listeners(memory)
    store = Slow(memory)
    writer = ProgressWriter(store)
    writer.note("job-1", "segments")
    assert begun.wait(60)
    writer.end("job-1")
    go_on.set()
    writer.flush()
    assert memory.list(keys.PROGRESS) == []


@pytest.mark.parametrize(
    "error", [StoreUnavailable("It is away."), RuntimeError("a fault of ours")]
)
def test_a_store_that_fails_holds_up_nothing(error: Exception) -> None:
    store = FailingStore(ObjectStore.in_memory())
    writer = heard(store)
    store.error = error
    writer.note("job-1", "segments")
    writer.flush()
    store.error = None
    writer.note("job-1", "cutouts")
    writer.flush()
    assert noted(store) == ("cutouts", None)


def test_a_run_notes_its_stages_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(tmp_path)
    accept_upload(context, "job-1")
    seen: list[str] = []
    note = context.progress.note

    def seen_note(uuid: str, stage: str) -> None:
        seen.append(str(stage))
        note(uuid, stage)

    monkeypatch.setattr(context.progress, "note", seen_note)
    with context.one_run():
        run_stages(context, "job-1")
    context.progress.flush()
    assert seen == ["source_image", "segments", "cutouts"]
    assert context.store.list(keys.PROGRESS) == []


def test_a_run_that_breaks_off_leaves_no_note(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    mark_listeners(context.store)
    accept_upload(context, "job-1")
    with context.one_run():
        stages.prepare_sources(context, ["job-1"])
        context.progress.flush()
        assert noted(context.store) == ("source_image", None)
    context.progress.flush()
    assert context.store.list(keys.PROGRESS) == []


def test_while_nobody_listens_nothing_is_written(tmp_path: Path) -> None:
    store = UnreliableStore(ObjectStore.in_memory())
    context = make_context(tmp_path, store)
    accept_upload(context, "job-1")
    store.calls.clear()
    for done in range(50):
        context.progress.note("job-1", "segments", done, 50)
    context.progress.flush()
    context.progress.end("job-1")
    context.progress.flush()
    assert store.calls["put"] + store.calls["delete"] == 0
    assert store.calls["head"] <= 2


def test_a_listener_that_comes_late_gets_the_last_note_without_another(store: Store) -> None:
    writer = ProgressWriter(store)
    writer.note("job-1", "segments", 5, 10)
    writer.flush()
    assert noted(store) is None
    mark_listeners(store)
    eventually(lambda: noted(store) == ("segments", 5))
    writer.end_all()
    writer.flush()
    assert store.list(keys.PROGRESS) == []


def test_its_thread_ends_with_its_work_and_begins_anew() -> None:
    def threads() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "progress"}

    before = threads()
    store = ObjectStore.in_memory()
    writer = heard(store)
    for stage in ("segments", "cutouts"):
        writer.note("job-1", stage)
        writer.flush()
        assert noted(store) == (stage, None)
        eventually(lambda: not threads() - before)
    writer.end("job-1")
    writer.flush()
    assert store.list(keys.PROGRESS) == []
