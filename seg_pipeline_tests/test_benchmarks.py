"""The benchmarks' own parts, as far as they are cheap, so that `make bench` works on the day
somebody needs it."""

import io
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import encoding, queueing, replaced_way
from benchmarks.__main__ import PARTS, REPORT
from benchmarks.bare_loop import run_bare_loop
from benchmarks.options import Options
from benchmarks.pictures import write_scenes
from benchmarks.plots import plot_history, plot_queue
from benchmarks.tables import Findings, Row, replace_section, row_of, table
from seg_pipeline.imaging.masks import encode_mask_png
from seg_pipeline_tests.builders import make_mask

pytestmark = pytest.mark.process

PROJECT = Path(__file__).parent.parent


def test_every_part_has_its_section_in_the_report() -> None:
    text = REPORT.read_text()
    assert [
        name for name in PARTS if f"<!-- {name} -->" not in text or f"<!-- /{name} -->" not in text
    ] == []


def test_a_section_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    report.write_text("<!-- a -->old<!-- /a --> between <!-- b -->kept<!-- /b -->")
    replace_section(report, "a", "new")
    assert report.read_text() == "<!-- a -->\nnew\n<!-- /a --> between <!-- b -->kept<!-- /b -->"
    with pytest.raises(SystemExit, match="no section"):
        replace_section(report, "c", "new")


def test_a_row_has_the_median_and_what_lies_around_it() -> None:
    row = row_of("a ratio", [1.0, 3.0, 2.0], "s", target="2 s", note="of 3")
    assert row == Row("a ratio", "2.00 s", "1.00 to 3.00 s, of 3", "2 s")
    assert table([row]).splitlines()[-1] == "| a ratio | 2.00 s | 1.00 to 3.00 s, of 3 | 2 s |"


def test_an_unknown_part_is_refused_before_anything_is_measured() -> None:
    command = [sys.executable, "-m", "benchmarks", "latencies"]
    answer = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "no such part: latencies" in answer.stderr


def test_the_seeds_masks_are_the_pixels_of_ours() -> None:
    """Otherwise their seconds and bytes would say nothing about ours."""
    mask = make_mask("..../.##./..#.")
    ours, theirs = (
        np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))
        for png in (encode_mask_png(mask), replaced_way.mask_png(mask.full()))
    )
    assert np.array_equal(ours, theirs)


def test_encoding_is_measured_against_the_seeds(tmp_path: Path) -> None:
    rows = encoding.measure(Options(tmp_path, quick=True))
    assert len(rows) == 6
    assert all(float(row.median) > 0 for row in rows)


@pytest.mark.slow
def test_the_bare_loop_and_the_replaced_way_find_something(tmp_path: Path) -> None:
    pictures = write_scenes(tmp_path / "pictures", 2, width=256, height=192)
    loop = run_bare_loop("demo-yolo", tmp_path / "bare", pictures)
    assert loop.segments > 0
    assert min(loop.seconds, loop.cpu_seconds) > 0
    options = Options(tmp_path)
    assert len(replaced_way.run_replaced_way(options.model, tmp_path / "replaced", pictures)) == 2
    assert [*(tmp_path / "replaced" / "scene_0000").glob("mask_*.png")] != []


@pytest.mark.slow
def test_the_way_from_message_to_patch_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queueing, "QUICK_ROUNDS", {1: 2, 4: 1})
    findings = queueing.measure(Options(tmp_path, quick=True))
    assert [row.figure for row in findings.rows][:2] == [
        "1 at once: message to PATCH",
        "4 at once: message to PATCH",
    ]
    draw(findings, tmp_path / "queue.svg")


def draw(findings: Findings, path: Path) -> None:
    assert findings.draw is not None
    findings.draw(path)
    assert path.read_text().startswith("<?xml")


def test_plots_are_small_and_the_same_for_the_same_figures(tmp_path: Path) -> None:
    """A plot that is drawn again from the same figures must not show up as a change."""
    for name in ("one", "other"):
        plot_queue([(1, 0.5, 2.0), (10, 1.0, 8.0)], tmp_path / f"queue-{name}.svg")
        plot_history([(0, 1.0, 1.0), (100, 1.1, 1.05)], 1.2, tmp_path / f"history-{name}.svg")
    for plot in ("queue", "history"):
        drawn = [(tmp_path / f"{plot}-{name}.svg").read_bytes() for name in ("one", "other")]
        assert all(one == other for one, other in pairwise(drawn))
        assert len(drawn[0]) < 40_000
