"""The story of a job on a real store, with a segmenter that needs no network."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from seg_pipeline.demo.scenes import make_scene
from seg_pipeline.domain import Mask, Parameters, RgbImage, Segment
from seg_pipeline.errors import (
    DeviceBroken,
    Fault,
    FetchGivenUp,
    FetchUnavailable,
    ModelFailed,
    ModelOutOfMemory,
    NotAnImage,
    SegPipelineError,
    StoreFull,
    StoreUnavailable,
    TruncatedImage,
)
from seg_pipeline.exports import Export, ExportedPicture
from seg_pipeline.exports.coco import coco_document
from seg_pipeline.imaging.masks import decode_mask_png, mask_to_rle
from seg_pipeline.jobs.answers import finished_job
from seg_pipeline.jobs.claims import Claim
from seg_pipeline.jobs.evidence import Evidence, read_evidence
from seg_pipeline.jobs.job_files import JobFiles
from seg_pipeline.jobs.records import FailureReason, completed_result
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.pipeline import stages
from seg_pipeline.pipeline.run_context import RunIdentity
from seg_pipeline.pipeline.stages import StageContext
from seg_pipeline.segmenters.registry import load_segmenter
from seg_pipeline.segmenters.warm import WarmModels
from seg_pipeline.settings import Settings
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import to_document
from seg_pipeline_tests.builders import (
    NOON,
    BarSegmenter,
    accept_address,
    accept_upload,
    bring_picture,
    error_of,
    make_context,
    make_found,
    make_job,
    make_result,
    make_scene_picture,
    make_timing,
    picture_bytes,
    result_of,
    stored_files,
    waiting_uuids,
)
from seg_pipeline_tests.stage_runs import ALL, run_stages
from seg_pipeline_tests.unreliable import Killed, Meanwhile, UnreliableStore


def test_a_picture_becomes_masks_cutouts_and_a_result(tmp_path: Path, store: Store) -> None:
    context = make_context(tmp_path, store)
    accept_upload(context, "job-1")
    context.repository.claims.claim(["job-1"], "job-1:1")
    run_stages(context, "job-1")
    result = context.repository.result("job-1")
    assert result is not None
    assert (result.status, len(result.segments), result.width, result.height) == (
        "completed",
        2,
        64,
        48,
    )
    names = sorted(key.removeprefix("assets/job-1/") for key in stored_files(context, "job-1"))
    assert [name for name in names if not name.startswith("crops/")] == [
        "mask_images/mask_000.png", "mask_images/mask_001.png", "original.webp", "overlay.webp",
        "source.png", "thumbnail.webp"
    ]  # fmt: skip
    assert context.repository.claims.inflight() == []


def test_segments_come_largest_first(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    accept_upload(context, "job-1")
    run_stages(context, "job-1")
    areas = [segment.area for segment in result_of(context.repository, "job-1").segments]
    assert areas == sorted(areas, reverse=True)
    assert len(set(areas)) == 2


@pytest.mark.parametrize("first", range(len(ALL)))
def test_a_rerun_from_any_stage_on_another_machine_gives_the_same_files(
    tmp_path: Path, first: int
) -> None:
    """What a stage stores is what the next one reads: a stage_context with nothing in memory must
    do."""
    context = make_context(tmp_path)
    accept_upload(context, "job-1", resize=32)
    run_stages(context, "job-1")
    before = stored_files(context, "job-1")
    elsewhere = make_context(tmp_path, context.store)
    for stage in ALL[first:]:
        assert not stage(elsewhere, ["job-1"]).errors
    assert stored_files(elsewhere, "job-1") == before


class _FindsAtMost(BarSegmenter):
    """A segmenter that finds fewer things after its `limit` was lowered."""

    limit = 9

    def segment(
        self, images: Sequence[RgbImage], parameters: Parameters | None = None
    ) -> list[list[Segment]]:
        return [found[: self.limit] for found in super().segment(images)]


def make_rerun(folder: Path, store: Store | None = None) -> StageContext:
    """Two jobs of three segments each, the first of which was done again with one, up to its
    publication."""
    segmenter = _FindsAtMost()
    context = make_context(folder, store, segmenter)
    for uuid in ("job-1", "job-10"):
        accept_upload(context, uuid, picture_bytes(make_scene_picture(boxes=3)))
        run_stages(context, uuid)
    segmenter.limit = 1
    for stage in ALL[:-1]:
        assert not stage(context, ["job-1"]).errors
    return context


def files_of(context: StageContext, uuid: str) -> set[str]:
    """The job's masks and cut-outs."""
    return {
        key for key in stored_files(context, uuid) if "/mask_images/" in key or "/crops/" in key
    }


def test_what_a_rerun_does_not_find_again_is_removed_with_its_publication(
    tmp_path: Path, store: Store
) -> None:
    context = make_rerun(tmp_path, store)
    before, others = files_of(context, "job-1"), stored_files(context, "job-10")
    assert len(before) == 6
    assert not stages.publish_results(context, ["job-1"]).errors
    assert files_of(context, "job-1") == result_of(context.repository, "job-1").files_of_segments
    assert len(files_of(context, "job-1")) == 2
    assert stored_files(context, "job-10") == others


@pytest.mark.process
def test_a_publication_that_dies_leaves_every_file_that_is_named(tmp_path: Path) -> None:
    """Killed before each of its writes; the next publication removes what is left."""
    for lives in range(20):
        context = make_rerun(tmp_path)
        dying = make_context(tmp_path, UnreliableStore(context.store, lives))
        with suppress(Killed):
            stages.publish_results(dying, ["job-1"])
        assert result_of(context.repository, "job-1").files_of_segments <= files_of(
            context, "job-1"
        )
        stages.publish_results(make_context(tmp_path, context.store), ["job-1"])
        assert len(files_of(context, "job-1")) == 2


@pytest.mark.process
def test_of_two_runs_at_once_the_files_of_the_last_published_stay(tmp_path: Path) -> None:
    """The other publishes, at the first moment at which its word is the last."""
    other = completed_result(make_job("job-1"), make_found("#...", ".#..", "..#."), make_timing())
    for moment in range(20):
        context = make_rerun(tmp_path)
        publish_other = partial(context.repository.results.finish, other)
        stages.publish_results(
            make_context(tmp_path, Meanwhile(context.store, moment, publish_other)), ["job-1"]
        )
        if result_of(context.repository, "job-1").segments == other.segments:
            assert files_of(context, "job-1") == other.files_of_segments
            return
    raise AssertionError("the other never had the last word")


def test_a_result_stays_published_if_what_is_left_over_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_rerun(tmp_path)

    def away(prefix: str) -> None:
        raise StoreUnavailable("The bucket does not answer.")

    monkeypatch.setattr(context.store, "list", away)
    assert not stages.publish_results(context, ["job-1"]).errors
    assert len(result_of(context.repository, "job-1").segments) == 1


def test_one_bad_picture_fails_alone_in_its_batch(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    accept_upload(context, "good-1")
    accept_upload(context, "bad", picture_bytes(make_scene_picture())[:-40])
    accept_upload(context, "good-2")
    reports = run_stages(context, "good-1", "bad", "good-2")
    assert isinstance(reports[0].errors["bad"], TruncatedImage)
    assert set(reports[-1].metadata) == {"good-1", "good-2"}
    assert context.repository.result("bad") is None


def test_a_picture_without_segments_is_completed(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    accept_upload(context, "job-1", picture_bytes(make_scene_picture(boxes=0)))
    run_stages(context, "job-1")
    assert result_of(context.repository, "job-1").segments == ()


class _ChokesOnMany(BarSegmenter):
    def segment(
        self, images: Sequence[RgbImage], parameters: Parameters | None = None
    ) -> list[list[Segment]]:
        if len(images) > 1:
            raise ModelOutOfMemory("too many")
        return super().segment(images)


def test_a_call_that_fails_for_many_pictures_is_made_for_each(tmp_path: Path) -> None:
    context = make_context(tmp_path, segmenter=_ChokesOnMany())
    for uuid in ("a", "b", "c"):
        accept_upload(context, uuid)
    assert set(run_stages(context, "a", "b", "c")[-1].metadata) == {"a", "b", "c"}


def test_each_job_gets_the_model_it_asked_for(tmp_path: Path) -> None:
    asked: list[str] = []

    def load(name: str, _: Settings) -> BarSegmenter:
        asked.append(name)
        return BarSegmenter()

    context = make_context(tmp_path)
    context.models._load = load
    accept_upload(context, "a", model="demo-yolo")
    accept_upload(context, "b", model="yolov8n-seg")
    run_stages(context, "a", "b")
    assert [result_of(context.repository, uuid).model for uuid in "ab"] == [
        "demo-yolo",
        "yolov8n-seg",
    ]
    assert sorted(asked) == ["demo-yolo", "yolov8n-seg"]


class _NotesParameters(BarSegmenter):
    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, Parameters]] = []

    def segment(
        self, images: Sequence[RgbImage], parameters: Parameters | None = None
    ) -> list[list[Segment]]:
        self.asked.append((len(images), parameters or {}))
        return super().segment(images, parameters)


def test_jobs_share_a_call_only_if_they_set_the_same_parameters(tmp_path: Path) -> None:
    segmenter = _NotesParameters()
    context = make_context(tmp_path, segmenter=segmenter)
    for uuid, parameters in {
        "a": {},
        "b": {"confidence": 0.5},
        "c": {},
        "d": {"confidence": 0.5},
    }.items():
        accept_upload(context, uuid, parameters=parameters)
    assert not run_stages(context, "a", "b", "c", "d")[1].errors
    pictures: Counter[float | None] = Counter()
    for count, asked in segmenter.asked:
        pictures[asked.get("confidence")] += count
    assert pictures == {None: 2, 0.5: 2}


@pytest.mark.process
def test_fewer_points_find_fewer_things(tmp_path: Path) -> None:
    """The whole way with a real SAM-2: what a job asks for reaches the network, and its answer
    shows it."""
    context = make_context(tmp_path)
    context.models._load = load_segmenter
    scene = picture_bytes(make_scene(seed=3).image)
    accept_upload(
        context, "few", scene, model="demo-sam2", parameters={"points_per_side": 2}, rle=True
    )
    accept_upload(context, "usual", scene, model="demo-sam2")
    assert not run_stages(context, "few", "usual")[1].errors
    few, usual = (result_of(context.repository, uuid) for uuid in ("few", "usual"))
    assert 0 < len(few.segments) < len(usual.segments)
    assert few.parameters == {"points_per_side": 2}
    assert [mask_to_rle(mask) for mask in stored_masks(context, "few")] == [
        to_document(segment.rle) for segment in few.segments if segment.rle
    ]


@pytest.mark.process
def test_prompts_reach_the_network_and_their_segments_say_of_which_box(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    context.models._load = load_segmenter
    scene = picture_bytes(make_scene(seed=3).image)
    boxes = [[100, 100, 200, 220], [200, 20, 310, 120]]
    accept_upload(context, "boxes", scene, model="demo-sam2", parameters={"boxes": boxes})
    accept_upload(context, "box", scene, model="demo-sam2", parameters={"box": boxes[1]})
    assert not run_stages(context, "boxes", "box")[1].errors
    both, alone = (result_of(context.repository, uuid) for uuid in ("boxes", "box"))
    assert {segment.prompt for segment in both.segments} == {0, 1}
    assert [segment.prompt for segment in alone.segments] == [None]
    (same,) = [segment for segment in both.segments if segment.prompt == 1]
    assert (same.bbox, same.area) == (alone.segments[0].bbox, alone.segments[0].area)
    assert to_document(both)["parameters"] == {"boxes": boxes}
    assert context.stored_output("boxes").segments[0].prompt == both.segments[0].prompt


@pytest.mark.process
def test_named_masks_are_published_with_their_tree_and_exported_with_their_names(
    tmp_path: Path,
) -> None:
    context = make_context(tmp_path)
    context.models._load = load_segmenter
    scene = picture_bytes(make_scene(seed=3, width=640, height=480).image)
    loose = {"box_nms_thresh": 1.0}
    accept_upload(context, "both", scene, model="demo-sam2+demo-yolo", parameters=loose)
    accept_upload(context, "plain", scene, model="demo-sam2", parameters=loose)
    assert not run_stages(context, "both", "plain")[-1].errors
    both, plain = (result_of(context.repository, uuid) for uuid in ("both", "plain"))
    named = [segment for segment in both.segments if segment.name]
    assert named
    for segment in named:
        assert segment.category == segment.label
        assert str(segment.name).startswith(f"{segment.label} ")
        assert segment.confidence is not None
    inner = [segment for segment in both.segments if segment.parent is not None]
    assert inner, "without suppression masks lie within one another"
    assert all(each.parent is not None and each.parent < each.segment_id for each in inner)
    assert context.stored_output("both").segments[inner[0].segment_id].parent
    new = {"name", "category", "parent", "prompt"}
    assert not any(new & each.keys() for each in to_document(plain)["segments"])
    answer = to_document(finished_job(both, context.store, ""))
    picture = ExportedPicture.of(answer)
    export = Export(picture, JobFiles(context.store, "both"))
    document = json.loads(b"".join(coco_document(export)))
    assert {each["name"] for each in document["categories"]} >= {each.label for each in named}
    assert {each["name"] for each in document["annotations"] if "name" in each} == {
        each.name for each in named
    }


def test_a_prompt_outside_the_picture_fails_its_job_alone_and_for_good(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    accept_upload(context, "outside", model="demo-sam2", parameters={"points": [[64, 3]]})
    accept_upload(context, "inside", model="demo-sam2", parameters={"points": [[63, 3]]})
    reports = run_stages(context, "outside", "inside")
    error = reports[0].errors["outside"]
    assert (error.code, error.permanent, error.fault) == ("prompt_outside", True, Fault.CLIENT)
    assert "64 pixels wide and 48 high" in str(error)
    assert set(reports[-1].metadata) == {"inside"}
    assert context.run.budget.held_bytes == 0


def stored_masks(context: StageContext, uuid: str) -> list[Mask]:
    """The job's masks as its PNGs have them."""
    names = sorted(key for key in stored_files(context, uuid) if "/mask_images/" in key)
    return [decode_mask_png(context.store.get(name), 10**6) for name in names]


def test_a_fetched_picture_becomes_the_source_and_is_not_fetched_again(tmp_path: Path) -> None:
    """The URL may answer otherwise next time; a rerun must work on the same bytes."""
    context = make_context(tmp_path)
    accept_address(context, "job-1")
    run_stages(context, "job-1")
    assert not run_stages(context, "job-1")[1].errors
    assert context.store.get(keys.source("job-1", "png")) == picture_bytes(make_scene_picture())
    names = {info.key.rpartition("/")[2] for info in context.store.list(keys.asset("job-1", ""))}
    assert {"source.png", "source.json"} <= names
    assert not any(name.startswith("source.fetched-") for name in names)


@contextmanager
def fetching(repository: JobRepository) -> Iterator[None]:
    """A fetcher that brings a picture to the job that is to have one."""

    def fetch() -> None:
        while not repository.fetches.uuids():
            time.sleep(0.01)
        bring_picture(repository, data=picture_bytes(make_scene_picture()))

    fetcher = Thread(target=fetch, daemon=True)
    fetcher.start()
    yield
    fetcher.join(60)


def test_an_operator_has_a_picture_fetched_again_that_could_not_be_had(tmp_path: Path) -> None:
    """The host is back. A fetcher brings the picture while the run waits a little."""
    context = make_context(tmp_path)
    context.repository.acceptance.accept(
        make_job("job-1", image_url="https://pictures.example/a.png")
    )
    bring_picture(context.repository, error=FetchGivenUp("It does not answer."))
    stages.fail_job(context.repository, "job-1", FetchGivenUp("It does not answer."))
    with fetching(context.repository):
        assert not stages.prepare_sources(context, ["job-1"]).errors
    assert (context.repository.fetches.uuids(), waiting_uuids(context.repository, 10)) == ([], [])


def test_an_operator_has_an_address_asked_again_that_answered_with_a_page(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    accept_address(context, "job-1", b"<html>an error</html>")
    context.repository.claims.claim(["job-1"], "job-1:1")
    for _ in range(2):  # the second time by what was noted
        error = stages.prepare_sources(context, ["job-1"]).errors["job-1"]
        assert isinstance(error, NotAnImage)
        assert "The 21 bytes are no picture" in str(error)
    stages.fail_job(context.repository, "job-1", error)
    with fetching(context.repository):
        assert not stages.prepare_sources(context, ["job-1"]).errors
    assert context.store.get(keys.source("job-1", "png")) == picture_bytes(make_scene_picture())


def test_an_operators_run_waits_only_a_little_for_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "RERUN_FETCH_SECONDS", 0.1)
    context = make_context(tmp_path)
    context.repository.acceptance.accept(
        make_job("job-1", image_url="https://pictures.example/a.png")
    )
    error = stages.prepare_sources(context, ["job-1"]).errors["job-1"]
    assert "is being fetched" in str(error)
    assert not stages.record_failure(context, "job-1", error, None)
    assert context.repository.status("job-1") == "queued"


def test_a_surprise_is_reported_and_worth_another_attempt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = make_context(tmp_path)
    accept_upload(context, "job-1")
    context.store.put(keys.source_info("job-1"), b"{}")
    report = stages.find_segments(context, ["job-1"])
    assert (report.errors["job-1"].code, report.errors["job-1"].permanent) == (
        "internal_error",
        False,
    )
    assert "job-1" in caplog.text


class WatchfulSegmenter(BarSegmenter):
    """Notes what is on record about a job while it is segmented."""

    def __init__(self, seen: Callable[[], object]) -> None:
        super().__init__()
        self._seen = seen

    def segment(
        self, images: Sequence[RgbImage], parameters: Parameters | None = None
    ) -> list[list[Segment]]:
        self._seen()
        return super().segment(images, parameters)


class TestEvidence:
    """What a worker that is killed outright leaves about the job that it had: only while that may
    be what killed it."""

    @pytest.fixture
    def seen(self) -> list[tuple[str, str | None]]:
        """What was done, and the stage that was on record meanwhile."""
        return []

    @pytest.fixture
    def context(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[tuple[str, str | None]]
    ) -> stages.StageContext:
        def look(what: str) -> None:
            context.run.evidence_writer.submit(
                lambda: None
            ).result()  # what was asked of it before is done
            evidence = read_evidence(context.store, "job-1")
            assert evidence is None or evidence.run_id == "run-1"
            seen.append((what, evidence.stage if evidence else None))

        def watched(what: str, work: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                look(what)
                return work(*arguments)

            return call

        def load(name: str, settings: Settings) -> WatchfulSegmenter:
            look("load")
            return WatchfulSegmenter(lambda: look("segment"))

        context = make_context(tmp_path)
        context.models = WarmModels(context.settings, load)
        monkeypatch.setattr(context, "decode", watched("decode", context.decode))
        for name in ("encode_original", "overlay", "cut_out", "completed_result"):
            monkeypatch.setattr(stages, name, watched(name, getattr(stages, name)))
        return context

    def run(self, context: stages.StageContext, *uuids: str, run_key: str | None = "key") -> None:
        for uuid in uuids:
            accept_upload(context, uuid)
        context.run.begin(
            {"source_image", "segments", "cutouts"}, RunIdentity("run-1", run_key, len(uuids))
        )
        run_stages(context, *uuids)

    def test_a_lone_job_is_on_record_while_it_is_worked_on(
        self, context: stages.StageContext, seen: list[tuple[str, str | None]]
    ) -> None:
        """And not while a model loads, nor when all that is left is to write its result."""
        self.run(context, "job-1")
        assert dict(seen) == {
            "decode": "source_image", "load": None, "segment": "segments",
            "encode_original": "segments",
            "overlay": "segments", "cut_out": "segments", "completed_result": None,
        }  # fmt: skip
        assert read_evidence(context.store, "job-1") is None

    @pytest.mark.parametrize(
        ("uuids", "run_key"), [(("job-1", "job-2"), "key"), (("job-1",), None)]
    )
    def test_a_batch_is_not_and_neither_is_an_operators_run(
        self,
        context: stages.StageContext,
        seen: list[tuple[str, str | None]],
        uuids: tuple[str, ...],
        run_key: str | None,
    ) -> None:
        self.run(context, *uuids, run_key=run_key)
        assert {stage for _, stage in seen} == {None}

    def test_a_job_whose_model_fails_is_no_longer_on_record(self, tmp_path: Path) -> None:
        class Failing(BarSegmenter):
            def segment(self, images: Any, parameters: Any = None) -> Any:
                raise ModelFailed("It failed.")

        context = make_context(tmp_path, segmenter=Failing())
        self.run(context, "job-1")
        assert read_evidence(context.store, "job-1") is None


def test_a_gpu_that_gives_up_is_no_fault_of_a_picture_s_and_the_worker_knows(
    tmp_path: Path,
) -> None:
    class Broken(BarSegmenter):
        def segment(self, images: Any, parameters: Any = None) -> Any:
            raise DeviceBroken("This process can use the GPU no more.")

    context = make_context(tmp_path, segmenter=Broken())
    accept_upload(context, "job-1")
    accept_upload(context, "job-2")
    run_stages(context, "job-1", "job-2")
    assert context.broken == "This process can use the GPU no more."
    assert [context.repository.result(uuid) for uuid in ("job-1", "job-2")] == [None, None]


class TestJobsOfThisRun:
    """A run may come late: its message was taken for lost, or a tick was resumed after a minute."""

    def test_what_another_run_was_asked_for_is_left_to_it(self, tmp_path: Path) -> None:
        context = make_context(tmp_path)
        for uuid in ("mine", "other", "finished"):
            accept_upload(context, uuid)
        _, other, _ = context.repository.claims.claim(["mine", "other", "finished"], "key")
        context.repository.claims.reclaim(other.after_loss(NOON))
        context.repository.results.finish(make_result("finished", "completed", NOON))
        context.run.begin((), RunIdentity("run-1", "key", 3))
        assert stages.jobs_of_this_run(context, ["mine", "other", "finished", "deleted"]) == [
            "mine"
        ]

    def test_an_operator_gets_what_he_asks_for(self, tmp_path: Path) -> None:
        context = make_context(tmp_path)
        accept_upload(context, "job-1")
        assert stages.jobs_of_this_run(context, ["job-1"]) == ["job-1"]


class TestRecordFailure:
    """Which failures are final."""

    @staticmethod
    def record(context: StageContext, error: SegPipelineError, attempt: int | None) -> bool:
        claim = None if attempt is None else Claim("job-1", attempt, "key", NOON)
        return stages.record_failure(context, "job-1", error, claim)

    def test_a_permanent_error_ends_the_job(self, tmp_path: Path) -> None:
        context = make_context(tmp_path)
        accept_upload(context, "job-1")
        assert self.record(context, TruncatedImage("It ends early."), attempt=1)
        assert error_of(context.repository) == FailureReason("truncated_image", "It ends early.")

    def test_a_passing_error_does_so_only_at_the_last_attempt(self, tmp_path: Path) -> None:
        context = make_context(tmp_path, max_attempts=2)
        accept_upload(context, "job-1")
        assert not self.record(context, FetchUnavailable("Later."), attempt=1)
        assert context.repository.result("job-1") is None
        assert self.record(context, FetchUnavailable("Later."), attempt=2)

    def test_a_passing_error_is_on_record_so_that_the_attempt_counts(self, tmp_path: Path) -> None:
        context = make_context(tmp_path)
        accept_upload(context, "job-1")
        context.run.begin((), RunIdentity("run-1", "key", 1))
        self.record(context, FetchUnavailable("Later."), attempt=1)
        assert read_evidence(context.store, "job-1") == Evidence(
            "run-1", "failed", "fetch_unavailable"
        )

    @pytest.mark.parametrize(
        "error", [StoreUnavailable("Away."), StoreFull("Full."), DeviceBroken("Gone.")]
    )
    def test_what_is_no_fault_of_a_job_never_ends_it(
        self, tmp_path: Path, error: SegPipelineError
    ) -> None:
        context = make_context(tmp_path, max_attempts=1)
        accept_upload(context, "job-1")
        assert not self.record(context, error, attempt=9)
        assert context.repository.result("job-1") is None
        assert read_evidence(context.store, "job-1") is None

    def test_a_run_that_comes_late_does_not_fail_a_finished_job(self, tmp_path: Path) -> None:
        context = make_context(tmp_path)
        accept_upload(context, "job-1")
        run_stages(context, "job-1")
        assert self.record(context, TruncatedImage("It ends early."), attempt=1)
        assert result_of(context.repository, "job-1").status == "completed"

    def test_an_operators_failed_rerun_leaves_the_good_result(self, tmp_path: Path) -> None:
        context = make_context(tmp_path)
        accept_upload(context, "job-1")
        run_stages(context, "job-1")
        assert self.record(context, TruncatedImage("It ends early."), attempt=None)
        assert result_of(context.repository, "job-1").status == "completed"
