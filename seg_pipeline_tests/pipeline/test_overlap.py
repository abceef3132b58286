"""Stages that overlap inside a run, held against the same stages one after another.

No test here measures time: one side of an overlap waits for an event that only the other side can
bring about.
"""

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from seg_pipeline.domain import Job, Parameters, RgbImage, Segment
from seg_pipeline.errors import StoreUnavailable
from seg_pipeline.imaging.images import Decoded, ImageHeader
from seg_pipeline.jobs.fetches import FetchRecord
from seg_pipeline.jobs.records import Result
from seg_pipeline.pipeline import stages
from seg_pipeline.pipeline.stages import StageContext, StageReport
from seg_pipeline.store import Store, keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline.store.serialization import to_document
from seg_pipeline_tests.builders import (
    BarSegmenter,
    accept_address,
    accept_upload,
    make_context,
    make_scene_picture,
    picture_bytes,
    result_of,
    stored_files,
)

pytestmark = pytest.mark.process

PATIENCE_SECONDS = 30
STAGES = {
    "source_image": stages.prepare_sources,
    "segments": stages.find_segments,
    "cutouts": stages.cut_segments,
    "result": stages.publish_results,
}


def run_stages(context: StageContext, *uuids: str, ahead: bool = True) -> dict[str, StageReport]:
    """Every stage in turn; with `ahead` each may begin before the one above it ends, as in the
    product's runs."""
    passed, reports = list(uuids), {}
    with context.one_run():
        for name, stage in STAGES.items():
            context.run.begin(STAGES if ahead else ())
            reports[name] = stage(context, passed)
            passed = [uuid for uuid in passed if uuid in reports[name].metadata]
    return reports


def random_pictures(count: int, seed: int) -> list[bytes]:
    """Pictures of different sizes with noise and up to five bars."""
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(count):
        scene = make_scene_picture(
            int(rng.integers(0, 6)), int(rng.integers(80, 160)), int(rng.integers(50, 120))
        )
        noisy = scene.astype(int) + rng.integers(-40, 40, scene.shape)
        pictures.append(picture_bytes(noisy.clip(0, 255).astype(np.uint8)))
    return pictures


def timeless(result: Result) -> dict[str, Any]:
    """A result without what differs from run to run."""
    times = ("accepted_at", "started_at", "completed_at", "expires_at", "seconds")
    return {name: value for name, value in to_document(result).items() if name not in times}


@pytest.mark.parametrize("seed", range(3))
def test_the_files_are_those_of_one_stage_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Whatever arrives when, however few pictures fit into memory, and however many go into a
    call."""
    pictures = random_pictures(9, seed)
    contexts = [make_context(tmp_path), make_context(tmp_path)]
    uuids = [f"job-{index}" for index in range(len(pictures))]
    for context in contexts:
        for uuid, data in zip(uuids, pictures, strict=True):
            accept_upload(context, uuid, data, resize=48)
    for uuid in uuids:
        run_stages(contexts[0], uuid, ahead=False)
    monkeypatch.setattr(stages, "PICTURES_PER_CALL", seed + 1)
    monkeypatch.setattr(stages, "PICTURES_IN_MEMORY_BYTES", 60_000 * (seed + 1))
    run_stages(contexts[1], *uuids)
    for uuid in uuids:
        assert stored_files(contexts[1], uuid) == stored_files(contexts[0], uuid)
        ours, theirs = (timeless(result_of(each.repository, uuid)) for each in contexts)
        assert ours == theirs


class _Tells(BarSegmenter):
    """Says when it was called, and does what a test wants before it answers."""

    def __init__(self, before: Callable[[int], None] = lambda _: None) -> None:
        super().__init__()
        self.called = Event()
        self._before = before

    def segment(
        self, images: Sequence[RgbImage], parameters: Parameters | None = None
    ) -> list[list[Segment]]:
        self.called.set()
        self._before(len(self.calls))
        return super().segment(images, parameters)


def accept_urls(context: StageContext, *uuids: str) -> None:
    for uuid in uuids:
        accept_address(context, uuid)


def read_slowly(context: StageContext, slow: Callable[[str], bool], go_on: Event) -> None:
    """Has the store keep some fetched pictures back until the event."""
    picture = context.repository.fetches.picture

    def wait_and_read(job: Job, record: FetchRecord) -> bytes:
        assert not slow(job.uuid) or go_on.wait(PATIENCE_SECONDS), "the model waits for the store"
        return picture(job, record)

    context.repository.fetches.picture = wait_and_read  # type: ignore[method-assign]


def test_the_model_does_not_wait_until_every_picture_is_read(tmp_path: Path) -> None:
    segmenter = _Tells()
    context = make_context(tmp_path, segmenter=segmenter)
    read_slowly(context, lambda uuid: uuid == "slow", segmenter.called)
    accept_urls(context, "slow", "quick")
    assert set(run_stages(context, "slow", "quick")["result"].metadata) == {"slow", "quick"}
    assert segmenter.calls == [1, 1]


def test_what_was_found_is_written_while_the_model_works_on_the_next_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks and cut-outs both; the second call is not answered before those of the first are
    there."""
    monkeypatch.setattr(stages, "PICTURES_PER_CALL", 1)
    store, written = ObjectStore.in_memory(), Event()

    def wait_for_the_first(call: int) -> None:
        assert call == 0 or written.wait(PATIENCE_SECONDS), "the encoders wait for the model"

    context = make_context(tmp_path, store, _Tells(wait_for_the_first))
    put, expected = store.put, {"segments.json", "overlay.webp"}

    def put_and_tell(key: str, data: bytes) -> None:
        put(key, data)
        expected.discard(key.rpartition("/")[2])
        if not expected:
            written.set()

    monkeypatch.setattr(store, "put", put_and_tell)
    for uuid in ("a", "b"):
        accept_upload(context, uuid)
    assert set(run_stages(context, "a", "b")["result"].metadata) == {"a", "b"}


def test_a_large_batch_is_decoded_only_as_far_ahead_as_fits_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each picture once: what was decoded is not dropped to be decoded again."""
    picture = make_scene_picture(boxes=1)
    monkeypatch.setattr(stages, "PICTURES_IN_MEMORY_BYTES", 3 * picture.nbytes)
    context = make_context(tmp_path)
    decode, most = context.decode, [0]
    alive: set[int] = set()
    decoded: list[int] = []

    def counting(data: bytes, header: ImageHeader) -> Decoded:
        image = decode(data, header).pixels.copy()
        number = len(decoded)
        decoded.append(number)
        alive.add(number)
        weakref.finalize(image, alive.discard, number)
        most[0] = max(most[0], len(alive))
        return Decoded(image)

    monkeypatch.setattr(context, "decode", counting)
    uuids = [f"job-{index}" for index in range(20)]
    for uuid in uuids:
        accept_upload(context, uuid, picture_bytes(picture))
    assert set(run_stages(context, *uuids)["result"].metadata) == set(uuids)
    assert (most[0] <= 3, len(decoded), alive) == (True, 20, set())


def test_pictures_that_are_each_larger_than_the_room_are_done_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "PICTURES_IN_MEMORY_BYTES", 1)
    context = make_context(tmp_path, segmenter=(segmenter := BarSegmenter()))
    for uuid in ("a", "b", "c"):
        accept_upload(context, uuid)
    assert set(run_stages(context, "a", "b", "c")["result"].metadata) == {"a", "b", "c"}
    assert segmenter.calls == [1, 1, 1]


class _FailsOnWide(BarSegmenter):
    def segment(
        self, images: Sequence[RgbImage], parameters: Parameters | None = None
    ) -> list[list[Segment]]:
        if any(image.shape[1] > 100 for image in images):
            raise ZeroDivisionError("nobody foresaw this")
        return super().segment(images, parameters)


def test_a_picture_on_which_the_model_fails_in_a_new_way_fails_alone(tmp_path: Path) -> None:
    context = make_context(tmp_path, segmenter=_FailsOnWide())
    for uuid, width in {"a": 64, "wide": 128, "b": 64}.items():
        accept_upload(context, uuid, picture_bytes(make_scene_picture(width=width)))
    reports = run_stages(context, "a", "wide", "b")
    assert {uuid: error.code for uuid, error in reports["segments"].errors.items()} == {
        "wide": "internal_error"
    }
    assert set(reports["result"].metadata) == {"a", "b"}


class _RefusesOne:
    """A store that does not take the files of one job that have a name."""

    def __init__(self, store: Store, uuid: str, name: str) -> None:
        self._store, self._refused = store, keys.asset(uuid, name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, key: str, data: bytes) -> None:
        if key == self._refused:
            raise StoreUnavailable("Not now.")
        self._store.put(key, data)


@pytest.mark.parametrize(("name", "stage"), [
    ("source.json", "source_image"),
    ("mask_images/mask_000.png", "segments"),
    ("segments.json", "segments"),
    ("original.webp", "cutouts"),
    ("overlay.webp", "cutouts"),
    ("result.json", "result"),
])  # fmt: skip
def test_a_picture_whose_files_cannot_be_written_fails_alone_in_its_stage(
    tmp_path: Path, name: str, stage: str
) -> None:
    context = make_context(tmp_path, _RefusesOne(ObjectStore.in_memory(), "bad", name))
    for uuid in ("a", "bad", "b"):
        accept_upload(context, uuid)
    reports = run_stages(context, "a", "bad", "b")
    assert {each: [*report.errors] for each, report in reports.items() if report.errors} == {
        stage: ["bad"]
    }
    assert set(reports["result"].metadata) == {"a", "b"}


def test_a_cancel_in_the_middle_stops_the_line_and_the_next_run_has_one_of_its_own(
    tmp_path: Path,
) -> None:
    """A cancel arrives in the thread that has the model; what is still being read then is not
    stored."""
    go_on, cancelling = Event(), [True]

    def cancel(_: int) -> None:
        if cancelling:
            cancelling.clear()
            raise KeyboardInterrupt

    context = make_context(tmp_path, segmenter=_Tells(cancel))
    run = context.run
    read_slowly(context, lambda uuid: uuid != "quick", go_on)
    uuids = ["quick", *(f"slow-{index}" for index in range(20))]
    accept_urls(context, *uuids)
    with pytest.raises(KeyboardInterrupt):
        run_stages(context, *uuids)
    go_on.set()
    run.waiters.shutdown(wait=True)
    files = [info.key for uuid in uuids[1:] for info in context.store.list(keys.asset(uuid, ""))]
    assert all(key.endswith("request.json") or keys.is_fetched(key) for key in files)
    assert context.run is not run
    assert set(run_stages(context, *uuids)["result"].metadata) == set(uuids)


def test_a_stage_that_finds_nothing_on_the_line_reads_the_store(tmp_path: Path) -> None:
    """As after a run that went on from its failure on another machine, or over several partitions
    from the UI."""
    context = make_context(tmp_path)
    uuids = ["a", "b", "c"]
    for uuid in uuids:
        accept_upload(context, uuid)
    run_stages(context, *uuids)
    before = {uuid: stored_files(context, uuid) for uuid in uuids}
    elsewhere = make_context(tmp_path, context.store)
    for name in ("segments", "cutouts"):
        for key in [
            key for uuid in uuids for key in before[uuid] if ("mask" in key) == (name == "segments")
        ]:
            if "source" not in key:
                context.store.delete(key)
        with elsewhere.one_run():
            elsewhere.run.begin({name})
            assert not STAGES[name](elsewhere, uuids).errors
    assert {uuid: stored_files(elsewhere, uuid) for uuid in uuids} == before
