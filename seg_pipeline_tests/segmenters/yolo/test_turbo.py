"""YOLO's quick mode against its exact one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from seg_pipeline.demo.scenes import make_scene
from seg_pipeline.demo.scoring import match_masks
from seg_pipeline.domain import RgbImage, Segment
from seg_pipeline.errors import ModelOutOfMemory
from seg_pipeline.segmenters.devices import has_bf16
from seg_pipeline.segmenters.weights.locate import BUNDLED
from seg_pipeline.segmenters.yolo import networks
from seg_pipeline.segmenters.yolo.networks import HalfNetwork, LastSteps, PlainNetwork
from seg_pipeline.segmenters.yolo.segmenter import (
    CPU_BATCH,
    YoloSegmenter,
    _load_model,
    import_ultralytics,
)
from seg_pipeline.settings import InferenceMode
from seg_pipeline_tests.segmenters.models import save_untrained_yolo

pytestmark = pytest.mark.process

SHAPES_WH = [
    (320, 320),
    (480, 360),
    (320, 320),
    (360, 480),
    (320, 320),
    (480, 360),
    (640, 480),
    (320, 320),
]


@pytest.fixture(scope="module")
def scenes() -> list[RgbImage]:
    return [
        make_scene(seed, width=width, height=height).image
        for seed, (width, height) in enumerate(SHAPES_WH)
    ]


def demo(mode: InferenceMode, converted_dir: Path | None = None) -> YoloSegmenter:
    weights = BUNDLED / "demo-yolo.pt"
    return YoloSegmenter("demo-yolo", weights, "cpu", mode=mode, converted_dir=converted_dir)


def torch_turbo() -> YoloSegmenter:
    """Turbo as it is where OpenVINO is not installed."""
    with patch.object(networks, "openvino_version", lambda: None):
        return demo("turbo")


def assert_alike(
    ours: Sequence[list[Segment]], theirs: Sequence[list[Segment]], least_iou: float
) -> None:
    for some, others in zip(ours, theirs, strict=True):
        assert len(some) == len(others)
        pairs = match_masks(
            [each.mask.full() for each in some], [each.mask.full() for each in others]
        )
        assert len(pairs) == len(some)
        for mine, yours, iou in pairs:
            assert iou > least_iou
            assert some[mine].label == others[yours].label
            assert some[mine].confidence == pytest.approx(others[yours].confidence, abs=0.05)


def test_turbo_finds_what_exact_finds(scenes: list[RgbImage]) -> None:
    exact, turbo = demo("exact").segment(scenes), torch_turbo().segment(scenes)
    assert sum(map(len, exact)) > 15
    assert_alike(turbo, exact, least_iou=0.95)


def test_turbo_says_in_which_form_it_runs() -> None:
    """It ends up on the materialisation, where an operator asks why two workers differ."""
    notes = torch_turbo().notes
    assert notes["inference_mode"] == "turbo"
    assert notes["batch_size"] == CPU_BATCH
    assert notes["precision"] == ("bf16" if has_bf16() else "fp32")
    assert demo("exact").notes == {
        "inference_mode": "exact", "batch_size": 1, "precision": "fp32", "engine": "torch",
    }  # fmt: skip


def test_pictures_of_a_batch_get_the_answers_they_get_alone(scenes: list[RgbImage]) -> None:
    """Other sums in another order: the same to within the rounding, and to each picture its own
    answer."""
    turbo = torch_turbo()
    assert_alike(
        turbo.segment(scenes), [turbo.segment([scene])[0] for scene in scenes], least_iou=0.97
    )


def test_pictures_of_one_shape_share_a_pass_and_no_more_than_the_batch(
    scenes: list[RgbImage],
) -> None:
    turbo = torch_turbo()
    sizes, network = [], turbo._network

    def counting(batch: torch.Tensor) -> Any:
        sizes.append(len(batch))
        assert network is not None
        return network(batch)

    turbo._network = counting  # type: ignore[assignment]
    turbo.segment([scenes[0]] * (CPU_BATCH + 1) + [scenes[3]])
    assert sizes == [CPU_BATCH, 1, 1]


@pytest.mark.parametrize("architecture", ["yolov8n-seg", "yolo11n-seg", "yolo26n-seg"])
def test_what_comes_after_the_last_convolution_is_ultralytics_own(
    architecture: str, tmp_path: Path
) -> None:
    """In fp32 the network without its last steps, and those, give what the whole network gives."""
    weights = save_untrained_yolo(tmp_path / f"{architecture}.pt", f"{architecture}.yaml")
    plain, cut = PlainNetwork(_load_model(weights, "cpu")), _load_model(weights, "cpu")
    quick = HalfNetwork(cut, LastSteps(cut), torch.float32)
    with torch.inference_mode():
        for shape_hw in ((96, 160), (160, 64)):
            batch = torch.rand(2, 3, *shape_hw)
            for ours, theirs in zip(quick(batch), plain(batch), strict=True):
                torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=1e-3)


def never_enough_for(most: int, segmenter: YoloSegmenter) -> list[int]:
    """Makes the network ask for an exbibyte whenever more pictures than this come at once; the
    sizes it was given."""
    sizes, network = [], segmenter._network

    def greedy(batch: torch.Tensor) -> Any:
        sizes.append(len(batch))
        assert network is not None
        return network(batch if len(batch) <= most else torch.empty(2**60, dtype=torch.uint8))

    segmenter._network = greedy  # type: ignore[assignment]
    return sizes


def test_a_batch_that_does_not_fit_is_halved_for_good(scenes: list[RgbImage]) -> None:
    turbo = torch_turbo()
    expected = turbo.segment([scenes[0]] * 4)
    sizes = never_enough_for(1, turbo)
    assert_alike(turbo.segment([scenes[0]] * 4), expected, least_iou=0.97)
    assert sizes == [4, 2, 1, 1, 1, 1]
    assert (turbo.notes["batch_size"], turbo.notes["halved_after_out_of_memory"]) == (1, 2)
    turbo.segment([scenes[0]] * 2)
    assert sizes[6:] == [1, 1]


def test_a_picture_that_does_not_fit_by_itself_is_an_error(scenes: list[RgbImage]) -> None:
    turbo = torch_turbo()
    never_enough_for(0, turbo)
    with pytest.raises(ModelOutOfMemory):
        turbo.segment(scenes[:1])


def test_openvino_finds_what_exact_finds_and_converts_once(
    scenes: list[RgbImage], tmp_path: Path
) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    turbo = demo("turbo", tmp_path)
    assert turbo.notes["engine"] == "openvino"
    assert_alike(turbo.segment(scenes), demo("exact").segment(scenes), least_iou=0.95)
    with patch.object(networks, "_convert", side_effect=AssertionError("converted again")):
        assert_alike(demo("turbo", tmp_path).segment(scenes), turbo.segment(scenes), least_iou=0.99)


def test_a_conversion_that_another_process_finished_first_is_taken(tmp_path: Path) -> None:
    made, folder = tmp_path / "made", tmp_path / "folder"
    for place, text in ((made, "mine"), (folder, "theirs")):
        place.mkdir()
        (place / "model.xml").write_text(text)
    networks._put(made, folder)
    assert (folder / "model.xml").read_text() == "theirs"


def test_torchs_threads_are_left_alone_by_turbo(scenes: list[RgbImage]) -> None:
    import_ultralytics()
    threads = torch.get_num_threads()
    demo("turbo").segment(scenes[:1])
    assert torch.get_num_threads() == threads
