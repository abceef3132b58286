"""Since when nothing has come of a process's run, as its parent sees it."""

import os
from pathlib import Path

import pytest

from seg_pipeline.pipeline import stages
from seg_pipeline.telemetry import activity
from seg_pipeline.telemetry.activity import RunActivity
from seg_pipeline_tests.builders import accept_upload, make_context


def test_a_run_stalls_from_its_last_progress_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("seg_pipeline.telemetry.activity.time.monotonic", lambda: now)
    seen = RunActivity()
    assert seen.stalled(0) is None, "no run is under way"
    seen.begin()
    now += 10
    assert (seen.stalled(10), seen.stalled(9)) == (None, os.getpid())
    seen.mark()
    assert seen.stalled(9) is None
    now += 10
    assert seen.stalled(9) == os.getpid()
    seen.end()
    assert seen.stalled(9) is None


def test_each_stage_is_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks: list[str] = []
    context = make_context(tmp_path)
    accept_upload(context, "job-1")
    monkeypatch.setattr(activity.ACTIVITY, "mark", lambda: marks.append("mark"))
    seen = []
    with context.one_run():
        for stage in (
            stages.prepare_sources,
            stages.find_segments,
            stages.cut_segments,
            stages.publish_results,
        ):
            stage(context, ["job-1"])
            seen.append(len(marks))
    assert seen == sorted({*seen}), "each stage marks at least once"
    assert seen[0] > 0
