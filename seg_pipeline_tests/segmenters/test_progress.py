"""Points of a SAM-2 as they are done, and a cancel between two batches of them."""

from pathlib import Path

import numpy as np
import pytest

from seg_pipeline.domain import RgbImage
from seg_pipeline.errors import JobCancelled
from seg_pipeline.pipeline import stages
from seg_pipeline.segmenters import Segmenter
from seg_pipeline.segmenters.progress import PointsDone, reported_to
from seg_pipeline.segmenters.registry import load_in_mode
from seg_pipeline.settings import InferenceMode
from seg_pipeline.store import keys
from seg_pipeline_tests.builders import accept_upload, make_context, make_scene_picture

IMAGE = make_scene_picture()
FEW = {"points_per_side": 8, "points_per_batch": 16}


def test_points_add_up_and_are_told_of_their_picture() -> None:
    told: list[tuple[bool, int, int]] = []
    with reported_to(lambda image, done, total: told.append((image is IMAGE, done, total))):
        points = PointsDone(IMAGE, 5)
    points.advance(2)
    points.advance(3)
    assert told == [(True, 2, 5), (True, 5, 5)]


def test_without_a_listener_nothing_is_told() -> None:
    PointsDone(IMAGE, 5).advance(5)


@pytest.mark.process
@pytest.mark.parametrize("mode", ["exact", "turbo"])
def test_a_sam2_tells_its_points_picture_by_picture(tmp_path: Path, mode: InferenceMode) -> None:
    segmenter = _sam2(tmp_path, mode)
    pictures = [IMAGE, np.ascontiguousarray(IMAGE[::-1])]
    told: list[tuple[int, int, int]] = []

    def tell(image: RgbImage, done: int, total: int) -> None:
        told.append((next(n for n, each in enumerate(pictures) if each is image), done, total))

    with reported_to(tell):
        segmenter.segment(pictures, FEW)
    assert [each for each, _, _ in told] == sorted(each for each, _, _ in told)
    for number in range(2):
        of_one = [(done, total) for each, done, total in told if each == number]
        assert len(of_one) >= 4
        assert max(of_one) == (64, 64)


@pytest.mark.process
@pytest.mark.usefixtures("torch_threads")
def test_a_cancel_stops_a_sam2_between_two_batches_of_points(tmp_path: Path) -> None:
    told: list[int] = []

    def stop(_: RgbImage, done: int, __: int) -> None:
        told.append(done)
        raise JobCancelled("job-1")

    with reported_to(stop), pytest.raises(JobCancelled):
        _sam2(tmp_path, "exact").segment([IMAGE], FEW)
    assert max(told) < 64


@pytest.mark.process
def test_of_two_jobs_in_a_call_the_cancelled_one_stops_and_the_other_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(tmp_path, segmenter=_sam2(tmp_path, "exact"))
    for uuid in ("unwanted", "wanted"):
        accept_upload(context, uuid, model="demo-sam2", parameters=FEW)
    note = context.progress.note

    def cancel_when_points_come(uuid: str, stage: str, *points: int) -> None:
        if points and uuid == "unwanted":
            context.repository.cancels.request("unwanted")
            context.look_for_cancels(["unwanted", "wanted"])
        note(uuid, stage, *points)

    monkeypatch.setattr(context.progress, "note", cancel_when_points_come)
    stages.prepare_sources(context, ["unwanted", "wanted"])
    report = stages.find_segments(context, ["unwanted", "wanted"])
    assert {uuid: error.code for uuid, error in report.errors.items()} == {"unwanted": "cancelled"}
    assert report.passed == ["wanted"]
    assert context.store.head(keys.segments("wanted"))


def _sam2(folder: Path, mode: InferenceMode) -> Segmenter:
    return load_in_mode("demo-sam2", make_context(folder).settings, mode)
