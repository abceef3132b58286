"""The gate that keeps `turbo` off where it does not find what `exact` finds."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from seg_pipeline.demo.scenes import make_scene
from seg_pipeline.domain import Parameters, RgbImage, Segment
from seg_pipeline.errors import ModelFailed, ModelOutOfMemory
from seg_pipeline.segmenters import Segmenter
from seg_pipeline.segmenters.devices import has_bf16
from seg_pipeline.segmenters.parity import gate, pictures
from seg_pipeline.segmenters.parity.gate import (
    AgainstUpstream,
    ParityVerdict,
    RunMode,
    Subject,
    judge,
    load_quickest,
)
from seg_pipeline.segmenters.parity.pictures import parity_pictures
from seg_pipeline.segmenters.registry import load_segmenter, parity_subject, parity_verdict
from seg_pipeline.segmenters.weights.locate import BUNDLED
from seg_pipeline.segmenters.yolo.segmenter import YoloSegmenter
from seg_pipeline.settings import Settings
from seg_pipeline_tests.builders import BarSegmenter, make_scene_picture, make_segment

pytestmark = pytest.mark.process

SUBJECT = Subject("demo-yolo", "0" * 64, "cpu", {"confidence": 0.25}, {"torch": "2"})
GOOD = ParityVerdict(
    pictures=22, pairs=80, mean_iou=0.999, others=1, exact_seconds=3.0, turbo_seconds=1.0
)
UPSTREAM = AgainstUpstream(pairs=80, mean_iou=0.9999, others=0, seconds=9.0)
SQUARE = "####..../####..../####..../####..../......../......../......../........"
SHIFTED = ".####.../.####.../.####.../.####.../......../......../......../........"
AWAY = "......../......../......../......../....####/....####/....####/....####"


def no_progress(done: int, total: int) -> None:
    """Nobody watches."""


# The verdict


def test_the_same_masks_have_a_mean_iou_of_one() -> None:
    verdict = judge([[make_segment(SQUARE)], []], [[make_segment(SQUARE)], []])
    assert verdict == ParityVerdict(pictures=2, pairs=1, mean_iou=1.0, others=0)


def test_the_mean_is_over_the_pairs_in_whatever_order_they_come() -> None:
    """Twelve of twenty pixels are shared by the shifted one."""
    verdict = judge(
        [[make_segment(SQUARE), make_segment(AWAY)]], [[make_segment(AWAY), make_segment(SHIFTED)]]
    )
    assert verdict.pairs == 2
    assert verdict.mean_iou == pytest.approx((1 + 12 / 20) / 2)
    assert verdict.others == 0


@pytest.mark.parametrize(
    "turbo",
    [
        [make_segment(SQUARE)],
        [make_segment(SQUARE), make_segment(AWAY), make_segment(SHIFTED)],
        [make_segment(SQUARE), make_segment(SHIFTED)],
        [make_segment(SQUARE), make_segment(AWAY, label="ring", confidence=0.75)],
    ],
    ids=["one lost", "one more", "as many but another", "another label"],
)
def test_a_mask_without_a_partner_makes_it_another_picture(turbo: list[Segment]) -> None:
    """A lost mask beside a made-up one would pass if masks were only counted."""
    assert judge([[make_segment(SQUARE), make_segment(AWAY)]], [turbo]).others == 1


def test_one_mask_is_not_the_partner_of_two() -> None:
    verdict = judge([[make_segment(SQUARE), make_segment(SQUARE)]], [[make_segment(SQUARE)]])
    assert (verdict.pairs, verdict.others) == (1, 1)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, None),
        ({"mean_iou": 0.99}, None),
        ({"mean_iou": 0.9899}, "mean IoU of 0.9899"),
        ({"others": 2}, "on 2 of 22 pictures"),
        ({"pairs": 19}, "too few"),
        ({"turbo_seconds": 3.1}, "3.1 s for what exact does in 3.0 s"),
        ({"failure": "it does not run: no such operator"}, "no such operator"),
    ],
)
def test_turbo_must_find_the_same_and_be_faster(
    changed: dict[str, Any], reason: str | None
) -> None:
    verdict = replace(GOOD, **changed)
    assert verdict.accepted is (reason is None)
    if reason:
        assert verdict.refusal is not None
        assert reason in verdict.refusal


@pytest.mark.parametrize(
    ("turbo", "upstream", "runs"),
    [
        ({}, {}, "turbo"),
        ({}, {"seconds": 0.9}, "upstream"),
        ({"mean_iou": 0.9}, {}, "exact"),
        ({"mean_iou": 0.9}, {"seconds": 2.9}, "upstream"),
        ({"turbo_seconds": 3.1}, {}, "exact"),
        ({"turbo_seconds": 3.1}, {"seconds": 2.9}, "upstream"),
        ({}, {"mean_iou": 0.98}, "upstream"),
        ({}, {"others": 2}, "upstream"),
        ({"failure": "it does not run: no such operator"}, {"seconds": 0.1}, "exact"),
    ],
)
def test_the_quickest_of_three_runs_if_it_finds_what_upstream_finds(
    turbo: dict[str, Any], upstream: dict[str, Any], runs: str
) -> None:
    """Upstream's own code among them: it is what the others are made to replace."""
    verdict = replace(GOOD, **turbo, upstream=replace(UPSTREAM, **upstream))
    assert verdict.runs == runs
    assert verdict.accepted is (runs == "turbo")


def test_without_upstream_exact_runs_where_turbo_may_not() -> None:
    assert GOOD.runs == "turbo"
    assert replace(GOOD, mean_iou=0.9).runs == "exact"


@pytest.mark.parametrize(
    ("upstream", "reason"),
    [
        ({"seconds": 0.5}, "it takes 1.0 s for what upstream's own code does in 0.5 s"),
        ({"mean_iou": 0.5, "others": 4}, "mean IoU of 0.5000, and others on 4 of 22 pictures"),
    ],
)
def test_a_refusal_for_upstreams_sake_says_so(upstream: dict[str, Any], reason: str) -> None:
    refusal = replace(GOOD, upstream=replace(UPSTREAM, **upstream)).refusal
    assert refusal is not None
    assert reason in refusal


# The pictures


@pytest.mark.parametrize("model", ["demo-sam2", "yolov8n-seg"])
def test_there_are_enough_pictures_and_each_group_has_one_shape(model: str) -> None:
    groups = parity_pictures(model)
    assert sum(map(len, groups)) >= 20
    assert all(len({picture.shape for picture in group}) == 1 for group in groups)


def test_models_of_the_world_are_shown_photographs() -> None:
    drawn, all_kinds = (
        sum(map(len, parity_pictures(name))) for name in ("demo-yolo", "yolov8n-seg")
    )
    shapes = {picture.shape for group in parity_pictures("yolov8n-seg") for picture in group}
    assert drawn == all_kinds
    assert {(1080, 810, 3), (720, 1280, 3)} < shapes


# The gate


class Shop:
    """Loads segmenters, and remembers the modes it was asked for and what it gave."""

    def __init__(self, turbo: Segmenter | Exception, upstream: Segmenter | None = None) -> None:
        self._upstream = upstream or BarSegmenter()
        self.asked: list[str] = []
        self.given: list[Segmenter] = []
        self._turbo = turbo

    def load(self, mode: RunMode) -> Segmenter:
        self.asked.append(mode)
        segmenter = {"exact": BarSegmenter(), "turbo": self._turbo, "upstream": self._upstream}[
            mode
        ]
        if isinstance(segmenter, Exception):
            raise segmenter
        self.given.append(segmenter)
        return segmenter


class Settles(BarSegmenter):
    """Becomes quicker in the background, and must not be timed before."""

    settled = False

    def settle(self) -> None:
        self.settled = True

    def segment(
        self, images: Sequence[RgbImage], parameters: Parameters | None = None
    ) -> list[list[Segment]]:
        assert self.settled
        return super().segment(images, parameters)


class Failing(BarSegmenter):
    """Loads, and cannot segment."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def segment(
        self, images: Sequence[RgbImage], parameters: Parameters | None = None
    ) -> list[list[Segment]]:
        raise self._error


def test_a_verdict_that_is_kept_spares_both_the_measuring_and_the_other_model(
    tmp_path: Path,
) -> None:
    gate.keep(tmp_path, SUBJECT, GOOD)
    shop = Shop(BarSegmenter())
    segmenter = load_quickest(SUBJECT, tmp_path, shop.load)
    assert shop.asked == ["turbo"]
    assert segmenter.notes["parity_mean_iou"] == 0.999
    assert "turbo_refused" not in segmenter.notes


@pytest.mark.parametrize(
    "changed",
    [
        {"weights_sha256": "1" * 64},
        {"device": "cuda"},
        {"versions": {"torch": "3"}},
        {"parameters": {"confidence": 0.5}},
        {"model": "demo-sam2"},
    ],
)
def test_a_verdict_says_nothing_about_anything_else(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    gate.keep(tmp_path, SUBJECT, GOOD)
    assert gate.kept(tmp_path, SUBJECT) == GOOD
    assert gate.kept(tmp_path, replace(SUBJECT, **changed)) is None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"subject": {}}', '{"verdict": {"pictures": 1}}']
)
def test_a_verdict_that_cannot_be_read_is_measured_again(tmp_path: Path, content: str) -> None:
    gate.keep(tmp_path, SUBJECT, GOOD)
    (tmp_path / SUBJECT.file_name).write_text(content)
    assert gate.kept(tmp_path, SUBJECT) is None


def test_keeping_leaves_nothing_unfinished_and_a_folder_that_cannot_be_is_no_reason_to_fail(
    tmp_path: Path,
) -> None:
    gate.keep(tmp_path / "parity", SUBJECT, GOOD)
    assert [path.name for path in (tmp_path / "parity").iterdir()] == [SUBJECT.file_name]
    (tmp_path / "file").write_text("in the way")
    gate.keep(tmp_path / "file", SUBJECT, GOOD)


def test_both_are_dropped_again_after_the_measuring() -> None:
    shop = Shop(BarSegmenter())
    verdict = gate.measure([[make_scene_picture(2), make_scene_picture(3)]], shop.load, no_progress)
    assert (verdict.pictures, verdict.pairs, verdict.mean_iou) == (2, 5, 1.0)
    assert shop.asked == ["exact", "turbo"]
    assert all(segmenter.closed for segmenter in shop.given if isinstance(segmenter, BarSegmenter))


def test_upstream_takes_part_where_the_verdict_is_to_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of drawn scenes a segmenter of dark regions makes thousands of single pixels."""
    monkeypatch.setattr(pictures, "parity_pictures", lambda _: [[make_scene_picture(3, 960, 720)]])
    shop = Shop(BarSegmenter())
    subject = replace(SUBJECT, model="demo-sam2", with_upstream=True)
    verdict = gate.fresh_verdict(subject, tmp_path, shop.load, no_progress)
    assert shop.asked == ["exact", "turbo", "upstream"]
    assert verdict.upstream is not None
    assert (verdict.upstream.mean_iou, verdict.upstream.others) == (1.0, 0)
    assert verdict.upstream.seconds > 0
    assert gate.kept(tmp_path, subject) == verdict
    assert all(segmenter.closed for segmenter in shop.given if isinstance(segmenter, BarSegmenter))


def test_a_model_is_compared_once_it_is_as_quick_as_it_gets() -> None:
    verdict = gate.measure([[make_scene_picture(2)]], Shop(Settles()).load, no_progress)
    assert verdict.failure is None


def test_upstream_runs_and_is_said_to_where_it_is_the_quickest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    subject = replace(SUBJECT, with_upstream=True)
    gate.keep(tmp_path, subject, replace(GOOD, upstream=replace(UPSTREAM, seconds=0.5)))
    shop = Shop(BarSegmenter())
    segmenter = load_quickest(subject, tmp_path, shop.load)
    assert shop.asked == ["upstream"]
    assert segmenter.notes["parity_upstream_seconds"] == 0.5
    assert "upstream's own code" in str(segmenter.notes["turbo_refused"])
    assert "runs in upstream and not in turbo" in caplog.text


@pytest.mark.parametrize(
    "turbo", [ModelFailed("no such operator."), Failing(ModelFailed("no such operator."))]
)
def test_a_turbo_that_does_not_run_is_refused_with_its_own_words(
    turbo: Any, tmp_path: Path
) -> None:
    segmenter = load_quickest(SUBJECT, tmp_path, Shop(turbo).load)
    assert segmenter.notes["turbo_refused"] == "it does not run: no such operator."
    assert gate.kept(tmp_path, SUBJECT) is not None


def test_want_of_memory_refuses_this_time_alone(tmp_path: Path) -> None:
    verdict = gate.fresh_verdict(
        SUBJECT, tmp_path, Shop(Failing(ModelOutOfMemory("full."))).load, no_progress
    )
    assert not verdict.accepted
    assert gate.kept(tmp_path, SUBJECT) is None


def test_a_worker_does_not_measure_for_ever() -> None:
    verdict = gate.measure([[], []], Shop(BarSegmenter()).load, no_progress, limit_seconds=-1)
    assert verdict.refusal is not None
    assert "seg-pipeline parity" in verdict.refusal


# Real models


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None,
        model="demo-yolo",
        device="cpu",
        inference_mode="turbo",
        data_dir=tmp_path,
        weights_dir=tmp_path,
    )


@pytest.mark.skipif(not has_bf16(), reason="this CPU has no bf16, so turbo need not be faster")
def test_turbo_of_the_demo_model_finds_what_exact_finds(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Not that it is quicker, which a busy machine may hide: the gate then keeps exact, and says
    so."""
    segmenter = load_segmenter("demo-yolo", settings)
    assert segmenter.notes["inference_mode"] == "turbo" or "takes" in str(
        segmenter.notes["turbo_refused"]
    )
    _, verdict = parity_verdict("demo-yolo", settings, no_progress)
    assert verdict.mean_iou >= 0.99
    assert verdict.others <= 1
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert load_segmenter("demo-yolo", settings).notes == segmenter.notes
    assert "comparing" not in caplog.text


def test_a_turbo_that_finds_other_masks_is_refused_and_exact_runs_with_the_reason(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The network's last mask layer is made worse by some noise: what careless quantisation would
    do."""

    def load(mode: RunMode) -> YoloSegmenter:
        segmenter = YoloSegmenter("demo-yolo", BUNDLED / "demo-yolo.pt", "cpu")
        if mode == "turbo":
            worsen(segmenter)
        return segmenter

    subject = parity_subject("demo-yolo", settings)
    segmenter = load_quickest(subject, tmp_path, load)
    assert segmenter.notes["inference_mode"] == "exact"
    assert "mean IoU" in str(segmenter.notes["turbo_refused"])
    assert "demo-yolo runs in exact and not in turbo: its masks have a mean IoU of" in caplog.text
    scene = make_scene(3).image
    (found,), (plain,) = segmenter.segment([scene]), load("exact").segment([scene])
    assert judge([found], [plain]).mean_iou == 1.0


def worsen(segmenter: YoloSegmenter) -> None:
    network: Any = segmenter._network
    convolution = network._model.model[-1].proto.cv3.conv
    noise = torch.randn(convolution.weight.shape, generator=torch.Generator().manual_seed(0))
    convolution.weight += 0.2 * convolution.weight.std() * noise


@pytest.mark.parametrize(
    ("model", "device", "asked", "takes_part"),
    [
        ("demo-sam2", "cpu", False, False),
        ("demo-sam2", "cpu", True, True),
        ("demo-sam2", "cuda", False, True),
        ("demo-yolo", "cuda", True, False),
    ],
)
def test_upstream_takes_part_on_a_gpu_or_when_the_operator_asks(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, model: str, device: str, asked: bool,
    takes_part: bool,
) -> None:  # fmt: skip
    """On a CPU it would make the first job wait five times as long, to be refused."""
    describe = "seg_pipeline.segmenters.devices.describe_device"
    monkeypatch.setattr(describe, lambda device: f"{device}: a card")
    subject = parity_subject(model, settings.model_copy(update={"device": device}), asked)
    assert subject.with_upstream is takes_part


def test_the_command_measures_a_failure_again_and_keeps_what_is_good(settings: Settings) -> None:
    subject = parity_subject("demo-yolo", settings)
    folder = settings.data_dir / "parity"
    gate.keep(folder, subject, GOOD)
    assert parity_verdict("demo-yolo", settings, no_progress) == (subject, GOOD)
    gate.keep(folder, subject, ParityVerdict(failure="it took too long"))
    assert parity_verdict("demo-yolo", settings, no_progress)[1].failure is None
