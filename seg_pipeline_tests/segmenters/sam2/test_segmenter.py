import os
import pickle
from dataclasses import asdict, replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seg_pipeline.domain import RgbImage, Segment
from seg_pipeline.errors import ModelError, ModelFailed, ModelOutOfMemory
from seg_pipeline.model_parameters import Sam2Parameters, default_parameters
from seg_pipeline.segmenters.sam2 import generator
from seg_pipeline.segmenters.sam2.segmenter import (
    Sam2Segmenter,
    build_model,
    config_path,
)
from seg_pipeline_tests.segmenters.models import save_untrained_sam2

pytestmark = pytest.mark.process

SIZES_WH = [(64, 48), (48, 64), (320, 200), (1, 1), (1, 300), (300, 2), (161, 97)]

KEEP_ALL = Sam2Parameters(
    points_per_side=4, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1
)
"""An untrained network is sure of nothing, so nothing is filtered."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained_sam2(tmp_path_factory.mktemp("weights") / "demo-sam2.pt")


@pytest.fixture(scope="module")
def segmenter(weights: Path) -> Sam2Segmenter:
    return make_segmenter(weights)


def make_segmenter(weights: Path, **parameters: Any) -> Sam2Segmenter:
    return Sam2Segmenter("demo-sam2", weights, "cpu", replace(KEEP_ALL, **parameters))


def make_picture(width: int, height: int, seed: int = 0) -> RgbImage:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)


def facts(segments: list[Segment]) -> list[tuple[float | None, float | None, bytes]]:
    return [(s.predicted_iou, s.stability_score, s.mask.full().tobytes()) for s in segments]


@pytest.mark.parametrize("size_wh", SIZES_WH)
def test_masks_have_the_size_of_the_picture_whatever_its_shape(
    segmenter: Sam2Segmenter, size_wh: tuple[int, int]
) -> None:
    (segments,) = segmenter.segment([make_picture(*size_wh)])
    assert segments
    assert {segment.mask.resolution_wh for segment in segments} == {size_wh}


def test_segments_have_both_of_sam2s_scores_as_plain_floats(
    segmenter: Sam2Segmenter, noise: RgbImage
) -> None:
    """They go into JSON, which knows no tensors."""
    for segment in segmenter.segment([noise])[0]:
        assert type(segment.predicted_iou) is float
        assert type(segment.stability_score) is float
        assert segment.label is None


def test_it_says_what_it_is(segmenter: Sam2Segmenter) -> None:
    assert (segmenter.name, segmenter.device, len(segmenter.weights_sha256)) == (
        "demo-sam2",
        "cpu",
        64,
    )


def test_the_answer_for_a_picture_does_not_depend_on_the_others(
    segmenter: Sam2Segmenter, noise: RgbImage
) -> None:
    alone = segmenter.segment([noise])[0]
    among = segmenter.segment([make_picture(50, 80), noise, make_picture(90, 30)])[1]
    assert facts(among) == facts(alone)


def test_no_pictures_have_no_answers(segmenter: Sam2Segmenter) -> None:
    assert segmenter.segment([]) == []


def test_the_reference_is_upstreams_generator_to_the_last_bit(
    weights: Path, noise: RgbImage
) -> None:
    from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

    model = build_model("demo-sam2").eval()
    model.load_state_dict(torch.load(weights, weights_only=True)["model"])
    with pytest.warns((FutureWarning, DeprecationWarning), match="jit"):
        generator = SAM2AutomaticMaskGenerator(model, **asdict(KEEP_ALL))
    generator.predictor._bb_feat_sizes = [(64, 64), (32, 32), (16, 16)]
    theirs = [
        (r["predicted_iou"], r["stability_score"], r["segmentation"].tobytes())
        for r in generator.generate(noise)
    ]
    reference = Sam2Segmenter("demo-sam2", weights, "cpu", KEEP_ALL, mode="upstream")
    assert facts(reference.segment([noise])[0]) == theirs


def test_the_defaults_are_upstreams() -> None:
    from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

    upstream = signature(SAM2AutomaticMaskGenerator).parameters
    assert asdict(default_parameters("sam2.1_hiera_large")) == {
        name: upstream[name].default for name in asdict(Sam2Parameters())
    }


def test_masks_under_the_thresholds_are_dropped(weights: Path, noise: RgbImage) -> None:
    assert make_segmenter(weights, pred_iou_thresh=1.0).segment([noise]) == [[]]
    assert make_segmenter(weights, stability_score_thresh=1.1).segment([noise]) == [[]]


def test_a_call_may_ask_for_other_parameters(
    weights: Path, segmenter: Sam2Segmenter, noise: RgbImage
) -> None:
    """A job's parameters are for that job alone."""
    configured = facts(segmenter.segment([noise])[0])
    asked = segmenter.segment(
        [noise], {"points_per_side": 3, "crop_n_layers": 1, "box_nms_thresh": 0.9, "confidence": 1}
    )[0]
    meant = make_segmenter(weights, points_per_side=3, crop_n_layers=1, box_nms_thresh=0.9).segment(
        [noise]
    )[0]
    assert facts(asked) == facts(meant) != configured
    assert facts(segmenter.segment([noise])[0]) == configured


def test_the_notes_say_how_it_ran(segmenter: Sam2Segmenter) -> None:
    assert segmenter.notes["inference_mode"] == "exact"


def test_near_duplicates_are_dropped(
    weights: Path, segmenter: Sam2Segmenter, noise: RgbImage
) -> None:
    fewer = make_segmenter(weights, box_nms_thresh=0.3).segment([noise])[0]
    assert 0 < len(fewer) < len(segmenter.segment([noise])[0])


def test_of_more_masks_than_fit_into_memory_the_surest_are_kept(
    segmenter: Sam2Segmenter,
    noise: RgbImage,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A job may set all thresholds to nothing, and must not take the worker down with everybody's
    pictures."""
    (every,) = segmenter.segment([noise])
    monkeypatch.setattr(generator, "MASK_BYTES", 3 * noise.shape[0] * noise.shape[1])
    (kept,) = segmenter.segment([noise])
    assert 0 < len(kept) < len(every)
    assert facts(kept) == facts(every)[: len(kept)]
    assert "masks: more would not fit into memory" in caplog.text


@pytest.mark.parametrize("size_wh", [(200, 150), (3, 90), (1, 1)])
def test_crops_add_their_own_masks(weights: Path, size_wh: tuple[int, int]) -> None:
    """Upstream fails on crops of a few pixels, and on pictures in no crop of which anything is
    found."""
    (segments,) = make_segmenter(weights, crop_n_layers=1, points_per_side=2).segment(
        [make_picture(*size_wh)]
    )
    assert {segment.mask.resolution_wh for segment in segments} == {size_wh}
    assert make_segmenter(weights, crop_n_layers=1, pred_iou_thresh=1.0).segment(
        [make_picture(*size_wh)]
    ) == [[]]


def test_small_holes_and_islands_go_when_asked(
    weights: Path, segmenter: Sam2Segmenter, noise: RgbImage
) -> None:
    """Upstream leaves this to an extension that has to be compiled, and goes on without."""
    import cv2

    def smallest_region(segment: Segment) -> int:
        sides = [(segment.mask.full() ^ inverted).astype(np.uint8) for inverted in (False, True)]
        areas = [cv2.connectedComponentsWithStats(side)[2][1:, cv2.CC_STAT_AREA] for side in sides]
        return int(min(np.concatenate(areas)))

    assert min(smallest_region(s) for s in segmenter.segment([noise])[0]) < 20
    assert (
        min(
            smallest_region(s)
            for s in make_segmenter(weights, min_mask_region_area=20).segment([noise])[0]
        )
        >= 20
    )


def test_large_pictures_get_small_batches_and_the_same_masks_from_upstream(
    weights: Path, noise: RgbImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream holds the full-resolution logits of 64 points at once: 38 GB at 50 megapixels."""
    reference = Sam2Segmenter("demo-sam2", weights, "cpu", KEEP_ALL, mode="upstream")
    alone = reference.segment([noise])[0]
    monkeypatch.setattr("seg_pipeline.segmenters.sam2.upstream.BATCH_BYTES", 3 * 200 * 150 * 12)
    in_threes = reference.segment([noise])[0]
    assert reference._upstream is not None
    assert reference._upstream._generator.points_per_batch == 3
    assert len(in_threes) == len(alone)
    for one, other in zip(in_threes, alone, strict=True):
        assert one.predicted_iou == pytest.approx(other.predicted_iou, abs=1e-4)


def test_pictures_that_must_not_be_written_are_read(
    segmenter: Sam2Segmenter, noise: RgbImage
) -> None:
    locked = noise[:, ::-1]
    locked.setflags(write=False)
    assert segmenter.segment([locked])[0]


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("can't allocate memory: you"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_memory_that_runs_out_is_told_from_other_failures(
    weights: Path, noise: RgbImage, error: Exception
) -> None:
    with pytest.raises(ModelOutOfMemory, match="demo-sam2"):
        make_failing_segmenter(weights, error).segment([noise])


def test_other_failures_are_the_models(weights: Path, noise: RgbImage) -> None:
    with pytest.raises(ModelFailed, match="RuntimeError: no kernel"):
        make_failing_segmenter(weights, RuntimeError("no kernel")).segment([noise])


def make_failing_segmenter(weights: Path, error: Exception) -> Sam2Segmenter:
    def fail(*_: Any) -> None:
        raise error

    segmenter = make_segmenter(weights)
    assert segmenter._upstream is not None
    segmenter._upstream.predictor.model.sam_prompt_encoder.register_forward_pre_hook(fail)
    return segmenter


def test_closing_drops_the_model(weights: Path) -> None:
    segmenter = make_segmenter(weights)
    segmenter.close()
    assert segmenter._upstream is None
    with pytest.raises(ModelError, match="demo-sam2"):
        segmenter.segment([make_picture(8, 8)])


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("was-run",)


def test_a_file_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Evil()}, tmp_path / "evil.pt", pickle_module=pickle)
    with pytest.raises(ModelError, match=r"evil\.pt cannot be loaded as SAM-2 weights"):
        make_segmenter(tmp_path / "evil.pt")
    assert not (tmp_path / "was-run").exists()


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match=r"other\.pt cannot be loaded as SAM-2 weights"):
        make_segmenter(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("size", "millions"), [("tiny", 38.9), ("small", 46.0), ("base_plus", 80.8), ("large", 224.4)]
)
def test_published_models_are_built_from_upstreams_configurations(
    size: str, millions: float
) -> None:
    """The sizes are those of upstream's table; without weights to load, a network that is built is
    all there is."""
    model = build_without_initialising(f"sam2.1_hiera_{size}")
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
    assert model.image_size == 1024


def build_without_initialising(name: str) -> Any:
    """Random numbers for 224 million weights take longer than everything else."""
    with pytest.MonkeyPatch.context() as patch:
        for initialiser in (
            "normal_",
            "trunc_normal_",
            "uniform_",
            "kaiming_uniform_",
            "xavier_uniform_",
        ):
            patch.setattr(torch.nn.init, initialiser, lambda tensor, *_, **__: tensor)
        return build_model(name)


@pytest.mark.parametrize("family", ["sam2", "sam2.1"])
def test_names_are_those_of_upstreams_checkpoints(family: str) -> None:
    """The table that the package has is for another host; the file names and configurations are the
    same."""
    from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES

    theirs = {
        Path(weights).stem: Path(config).name
        for config, weights in HF_MODEL_ID_TO_FILENAMES.values()
    }
    for size in ("tiny", "small", "base_plus", "large"):
        name = f"{family}_hiera_{size}"
        assert config_path(name).name == theirs.pop(name)
        assert config_path(name).is_file()
    assert all(not name.startswith(f"{family}_") for name in theirs)


def test_names_that_upstream_does_not_know_are_refused() -> None:
    with pytest.raises(ModelError, match=r"sam2\.1_hiera_huge"):
        config_path("sam2.1_hiera_huge")


def test_hydra_is_left_as_it_was_found() -> None:
    """Importing sam2 starts hydra for the whole process, which would be in the way of anyone
    else's."""
    from hydra.core.global_hydra import GlobalHydra

    build_model("demo-sam2")
    assert not GlobalHydra.instance().is_initialized()
