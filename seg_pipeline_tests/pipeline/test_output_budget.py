"""A small picture cannot ask for minutes of encoding, nor for an answer of megabytes."""

from pathlib import Path

import pytest

from seg_pipeline.errors import OutputTooLarge
from seg_pipeline.pipeline.output_budget import check_output, surest
from seg_pipeline.store import keys
from seg_pipeline_tests.builders import (
    accept_upload,
    make_context,
    make_job,
    make_scene_picture,
    make_segment,
    picture_bytes,
)
from seg_pipeline_tests.pipeline.test_overlap import run_stages


def test_the_surest_stay_in_their_order() -> None:
    segments = [make_segment(confidence=value) for value in (0.2, 0.9, 0.1, 0.8)]
    assert surest(segments, 2) == [segments[1], segments[3]]
    assert surest(segments, 4) == segments


def test_a_sam_2_is_sure_by_its_predicted_iou() -> None:
    segments = [
        make_segment(predicted_iou=0.5, stability_score=0.99),
        make_segment(predicted_iou=0.9, stability_score=0.95),
    ]
    assert surest(segments, 1) == segments[1:]


def test_the_pixels_of_all_cut_outs_count_at_the_size_that_was_asked_for() -> None:
    segments = [make_segment("####/####")] * 3  # 4x2
    check_output(make_job(), segments, 24)
    with pytest.raises(
        OutputTooLarge,
        match=r"3 cut-outs at their natural size have 24 pixels.*MAX_OUTPUT_PIXELS = 23",
    ):
        check_output(make_job(), segments, 23)
    check_output(make_job(resize=8), segments, 3 * 8 * 4)
    with pytest.raises(OutputTooLarge, match="at resize = 8 have 96 pixels"):
        check_output(make_job(resize=8), segments, 95)


def test_a_job_over_the_budget_fails_for_good_before_anything_is_encoded(tmp_path: Path) -> None:
    context = make_context(tmp_path, max_output_pixels=10_000)
    accept_upload(context, "large", resize=8192)
    accept_upload(context, "small")
    reports = run_stages(context, "large", "small")
    error = reports["cutouts"].errors["large"]
    assert (error.code, error.permanent) == ("output_too_large", True)
    assert not context.store.head(keys.original("large"))
    assert set(reports["result"].metadata) == {"small"}
    assert context.run.budget.held_bytes == 0


def test_segments_past_the_limit_are_left_out_and_counted(tmp_path: Path) -> None:
    context = make_context(tmp_path, max_segments=2)
    accept_upload(context, "job-1", picture_bytes(make_scene_picture(boxes=4)))
    accept_upload(context, "job-2", picture_bytes(make_scene_picture(boxes=2)))
    metadata = run_stages(context, "job-1", "job-2")["segments"].metadata
    assert (metadata["job-1"]["segments"], metadata["job-1"]["segments_left_out"]) == (2, 2)
    assert "segments_left_out" not in metadata["job-2"]
