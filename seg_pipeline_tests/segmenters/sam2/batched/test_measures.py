import logging

import pytest
import torch
from torch.nn.functional import interpolate

from seg_pipeline.segmenters.sam2.batched import measures
from seg_pipeline.segmenters.sam2.batched.measures import Ask, measure_for, measure_plainly

pytestmark = pytest.mark.process


def make_ask(size: tuple[int, int], masks: int = 6) -> Ask:
    random = torch.Generator().manual_seed(1)
    logits = interpolate(4 * torch.randn(1, masks, 4, 4, generator=random), (32, 32))[0]
    logits[0] = -9
    return Ask(logits, torch.ones(masks, dtype=torch.bool), size, (-1.0, 0.0, 1.0))


@pytest.mark.parametrize("size", [(90, 140), (1, 50), (16, 16)], ids=str)
def test_measures_are_upstreams(size: tuple[int, int]) -> None:
    from sam2.utils.amg import batched_mask_to_box, calculate_stability_score

    ask = make_ask(size)
    large = interpolate(ask.logits[None], size, mode="bilinear", align_corners=False)[0]
    ours = measure_plainly(ask)
    stability = ours.counts[:, 2] / ours.counts[:, 0]
    torch.testing.assert_close(
        stability, calculate_stability_score(large, 0.0, 1.0), equal_nan=True, atol=0, rtol=0
    )
    assert ours.boxes.tolist() == batched_mask_to_box(large > 0).tolist()


def test_a_few_masks_at_a_time_measure_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure_plainly(make_ask((90, 140)))
    monkeypatch.setattr(measures, "PIXELS_AT_ONCE", 2 * 90 * 140)
    parts = measure_plainly(make_ask((90, 140)))
    assert parts.counts.tolist() == whole.counts.tolist()
    assert parts.boxes.tolist() == whole.boxes.tolist()


def test_a_cpu_measures_without_a_kernel() -> None:
    assert measure_for(torch.device("cpu")) is measure_plainly


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernel runs where there is CUDA")
def test_where_the_kernel_does_not_run_torch_measures_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Such a machine loses speed, and nothing else."""
    with caplog.at_level(logging.WARNING):
        assert measure_for(torch.device("cuda")) is measure_plainly
    assert len(caplog.records) == 1
    assert "without a kernel" in caplog.text


def test_a_kernel_that_is_wrong_is_found_out() -> None:
    def wrong(ask: Ask) -> measures.Measures:
        right = measure_plainly(ask)
        return measures.Measures(right.counts + 3, right.boxes)

    measures._check(measure_plainly, torch.device("cpu"))
    with pytest.raises(ValueError, match="off by 3 pixels"):
        measures._check(wrong, torch.device("cpu"))
