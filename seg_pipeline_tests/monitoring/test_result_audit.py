"""The audit of what is stored: each check passes on what the stages wrote, and finds its fault."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seg_pipeline.domain import Box
from seg_pipeline.imaging.masks import encode_mask_png
from seg_pipeline.monitoring.result_audit import (
    CHECKS,
    AuditedResult,
    audited,
    count_usual,
    newest_results,
)
from seg_pipeline.pipeline.stages import StageContext
from seg_pipeline.store import keys
from seg_pipeline_tests.builders import accept_upload, make_context, make_result, mask_of
from seg_pipeline_tests.stage_runs import run_stages

PIXELS = 10_000_000


@pytest.fixture
def finished(tmp_path: Path) -> StageContext:
    """A job with two segments, as the stages leave it."""
    context = make_context(tmp_path)
    accept_upload(context, "job-1")
    context.repository.claims.claim(["job-1"], "job-1:1")
    run_stages(context, "job-1")
    return context


def audit(context: StageContext) -> AuditedResult:
    """What the audit reads of the job."""
    (result,) = newest_results(context.store)
    read = audited(context.store, result, PIXELS)
    assert read is not None
    return read


def failing(each: AuditedResult) -> set[str]:
    """The checks that do not pass."""
    return {name for name, check in CHECKS.items() if not check([each]).passed}


def test_what_the_stages_wrote_passes_every_check(finished: StageContext) -> None:
    read = audit(finished)
    assert len(read.masks) == 2
    assert failing(read) == set()


def test_a_missing_file_is_named(finished: StageContext) -> None:
    finished.store.delete(keys.overlay("job-1"))
    verdict = CHECKS["files_there"]([audit(finished)])
    assert verdict.bad == {"job-1": "assets/job-1/overlay.webp is missing"}


def test_a_file_that_is_no_mask_fails(finished: StageContext) -> None:
    finished.store.put(keys.mask("job-1", 0), b"no picture")
    assert failing(audit(finished)) == {"masks_not_empty"}


def test_a_mask_of_another_area_fails(finished: StageContext) -> None:
    full = np.zeros((48, 64), np.bool_)
    full[0:3, 0:3] = True
    finished.store.put(keys.mask("job-1", 1), encode_mask_png(mask_of(full)))
    assert failing(audit(finished)) == {"areas_agree"}


def test_a_box_outside_the_picture_fails(finished: StageContext) -> None:
    read = audit(finished)
    (first, *others) = read.result.segments
    outside = replace(first, bbox=Box(60, 0, 30, 10))
    moved = replace(read, result=replace(read.result, segments=(outside, *others)))
    assert failing(moved) == {"boxes_inside"}


def test_a_job_that_was_deleted_meanwhile_is_not_audited(finished: StageContext) -> None:
    (result,) = newest_results(finished.store)
    finished.repository.removal.delete("job-1")
    assert audited(finished.store, result, PIXELS) is None


def test_the_newest_results_are_read_earliest_first(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    for uuid in ("c", "a", "b"):
        accept_upload(context, uuid)
        context.repository.results.finish(make_result(uuid))
    assert [result.uuid for result in newest_results(context.store, 2)] == ["a", "b"]


@pytest.mark.parametrize(
    ("earlier", "recent", "passes"),
    [
        (12, 12, True),
        (12, 4, True),
        (12, 0, False),
        (2, 0, True),
        (2, 30, False),
    ],
)
def test_a_model_that_finds_far_more_or_less_than_before_is_noticed(
    finished: StageContext, earlier: int, recent: int, passes: bool
) -> None:
    segment = audit(finished).result.segments[0]
    counts = [earlier] * 20 + [recent] * 10
    results = [
        AuditedResult(make_result(f"job-{index}", segments=(segment,) * count))
        for index, count in enumerate(counts)
    ]
    assert count_usual(results).passed is passes


def test_too_few_results_are_not_judged(finished: StageContext) -> None:
    segment = audit(finished).result.segments[0]
    counts = [9, 9, 9, 0, 0, 0]
    results = [AuditedResult(make_result(f"j{n}", segments=(segment,) * n)) for n in counts]
    assert count_usual(results).passed
