"""A job that is wanted no more stops between two steps, writes nothing after that, and harms no
other of its run."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from seg_pipeline.domain import Parameters, RgbImage, Segment
from seg_pipeline.errors import TruncatedImage
from seg_pipeline.imaging.cutouts import cut_out
from seg_pipeline.pipeline import stages
from seg_pipeline.pipeline.run_context import RunIdentity
from seg_pipeline.segmenters.progress import PointsDone
from seg_pipeline.segmenters.tiling import TiledSegmenter
from seg_pipeline.store import keys
from seg_pipeline.telemetry.activity import ACTIVITY
from seg_pipeline_tests.builders import (
    BarSegmenter,
    accept_upload,
    make_context,
    make_scene_picture,
    picture_bytes,
)
from seg_pipeline_tests.pipeline.test_overlap import run_stages

WIDE = 128


class PointsSegmenter(BarSegmenter):
    """Reports two batches of points of each picture that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.reported = 0

    def segment(
        self, images: Sequence[RgbImage], parameters: Parameters | None = None
    ) -> list[list[Segment]]:
        """Dark regions, after the points."""
        for image in images:
            points = PointsDone(image, 2)
            for _ in range(2):
                self.reported += 1
                points.advance(1)
        return super().segment(images, parameters)


def test_each_batch_of_points_of_a_tile_is_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture in tiles takes long, and does not hang."""
    marks: list[int] = []
    context = make_context(tmp_path, segmenter=TiledSegmenter(points := PointsSegmenter(), 1, 256))
    accept_upload(context, "job-1", picture_bytes(make_scene_picture(width=600)))
    stages.prepare_sources(context, ["job-1"])
    monkeypatch.setattr(ACTIVITY, "mark", lambda: marks.append(points.reported))
    stages.find_segments(context, ["job-1"])
    assert points.reported > 4
    assert {*range(1, points.reported + 1)} <= {*marks}


def test_a_picture_in_tiles_is_cancelled_within_a_tile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(tmp_path, segmenter=TiledSegmenter(points := PointsSegmenter(), 1, 256))
    for uuid in ("unwanted", "other"):
        accept_upload(context, uuid, picture_bytes(make_scene_picture(width=600)))
    stages.prepare_sources(context, ["unwanted"])
    context.repository.cancels.request("unwanted")
    whole = points.segment

    def cancel_and_segment(*arguments: Any) -> list[list[Segment]]:
        context.look_for_cancels(["unwanted", "other"])
        return whole(*arguments)

    monkeypatch.setattr(points, "segment", cancel_and_segment)
    report = stages.find_segments(context, ["unwanted"])
    assert report.errors["unwanted"].code == "cancelled"
    assert points.reported == 1


class TestAJobOfABatch:
    @pytest.fixture
    def context(self, tmp_path: Path) -> stages.StageContext:
        context = make_context(tmp_path)
        for uuid, width in {"unwanted": WIDE, "wanted": 64}.items():
            accept_upload(context, uuid, picture_bytes(make_scene_picture(boxes=4, width=width)))
        return context

    def cancel(self, context: stages.StageContext) -> None:
        context.repository.cancels.request("unwanted")
        assert not context.look_for_cancels(["unwanted", "wanted"]), "not all of the run is"

    def test_before_its_picture_is_decoded(self, context: stages.StageContext) -> None:
        context.run.begin(())
        self.cancel(context)
        report = stages.prepare_sources(context, ["unwanted", "wanted"])
        assert {uuid: str(error.code) for uuid, error in report.errors.items()} == {
            "unwanted": "cancelled"
        }
        assert report.passed == ["wanted"]

    def test_before_the_model(
        self, context: stages.StageContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stages.prepare_sources(context, ["unwanted", "wanted"])
        self.cancel(context)
        report = stages.find_segments(context, ["unwanted", "wanted"])
        assert {uuid: str(error.code) for uuid, error in report.errors.items()} == {
            "unwanted": "cancelled"
        }
        assert report.passed == ["wanted"]
        assert not context.store.head(keys.segments("unwanted"))

    def test_between_two_cut_outs(
        self, context: stages.StageContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def cancel_and_cut(picture: RgbImage, *rest: Any) -> bytes:
            if picture.shape[1] == WIDE:
                self.cancel(context)
            return cut_out(picture, *rest)

        monkeypatch.setattr(stages, "cut_out", cancel_and_cut)
        reports = run_stages(context, "unwanted", "wanted")
        assert reports["cutouts"].errors["unwanted"].code == "cancelled"
        assert set(reports["result"].metadata) == {"wanted"}


def test_a_run_whose_only_job_is_cancelled_is_to_be_interrupted(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    accept_upload(context, "job-1")
    assert context.run
    assert not context.look_for_cancels(["job-1"])
    context.repository.cancels.request("job-1")
    assert context.look_for_cancels(["job-1"])
    assert not context.look_for_cancels([])


def test_an_interrupted_run_is_over_though_a_cut_out_takes_long_and_nothing_is_written_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoding cannot be stopped in the middle: its result is dropped."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> bytes:
        begun.set()
        assert go_on.wait(60)
        return b"late"

    monkeypatch.setattr(stages, "cut_out", slow)
    context = make_context(tmp_path)
    accept_upload(context, "job-1")
    with pytest.raises(KeyboardInterrupt), context.one_run():  # noqa: PT012
        context.run.begin({"source_image", "segments", "cutouts"})
        stages.prepare_sources(context, ["job-1"])
        stages.find_segments(context, ["job-1"])
        assert begun.wait(60)
        raise KeyboardInterrupt
    before = {info.key for info in context.store.list(keys.asset("job-1", ""))}
    go_on.set()
    context._encoders.shutdown()
    assert {info.key for info in context.store.list(keys.asset("job-1", ""))} == before


def test_the_segmenter_of_the_builders_is_called_for_what_is_wanted_alone(tmp_path: Path) -> None:
    context = make_context(tmp_path, segmenter=(segmenter := BarSegmenter()))
    accept_upload(context, "job-1")
    stages.prepare_sources(context, ["job-1"])
    context.repository.cancels.request("job-1")
    context.look_for_cancels(["job-1"])
    assert stages.find_segments(context, ["job-1"]).errors["job-1"].code == "cancelled"
    assert segmenter.calls == []


def test_a_run_that_begins_after_the_cancel_does_nothing_for_the_job(tmp_path: Path) -> None:
    """Its worker need not have had a heartbeat since."""
    context = make_context(tmp_path, segmenter=(segmenter := BarSegmenter()))
    accept_upload(context, "job-1")
    context.repository.claims.claim(["job-1"], "run-1")
    context.repository.cancels.request("job-1")
    context.run.begin({"source_image", "segments"}, RunIdentity("id", "run-1", 1))
    uuids = stages.jobs_of_this_run(context, ["job-1"])
    report = stages.prepare_sources(context, uuids)
    assert report.errors["job-1"].code == "cancelled"
    assert segmenter.calls == []


def test_a_late_failure_of_a_run_leaves_the_end_that_a_cancel_wrote(tmp_path: Path) -> None:
    """The app server would hear of a second one."""
    context = make_context(tmp_path)
    accept_upload(context, "job-1")
    context.repository.claims.claim(["job-1"], "run-1")
    context.run.begin((), RunIdentity("id", "run-1", 1))
    context.repository.cancels.end("job-1")
    before = context.repository.result("job-1")
    assert stages.record_failure(context, "job-1", TruncatedImage("It ends too early."), None)
    assert context.repository.result("job-1") == before
