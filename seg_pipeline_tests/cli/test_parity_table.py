from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from seg_pipeline.cli.main import app
from seg_pipeline.cli.parity_table import Counter, sentence, table
from seg_pipeline.segmenters.parity import gate
from seg_pipeline.segmenters.parity.gate import AgainstUpstream, ParityVerdict, Subject
from seg_pipeline.segmenters.registry import parity_subject
from seg_pipeline.settings import Settings

SUBJECT = Subject("demo-yolo", "0" * 64, "cpu: some processor", {}, {})
GOOD = ParityVerdict(
    pictures=22, pairs=80, mean_iou=0.99912, others=1, exact_seconds=3.0, turbo_seconds=1.0
)
BAD = ParityVerdict(
    pictures=22, pairs=80, mean_iou=0.97, others=1, exact_seconds=3.0, turbo_seconds=1.0
)


def test_the_table_has_a_line_for_each_model_with_what_was_measured() -> None:
    printed = StringIO()
    Console(file=printed, width=160).print(table([(SUBJECT, GOOD), (SUBJECT, BAD)]))
    lines = printed.getvalue().splitlines()
    assert lines[1].split()[-8:] == ["0.9991", "1", "3.0", "s", "1.0", "s", "3.00x", "on"]
    assert lines[2].split()[-1] == "off"


def test_upstream_has_a_line_of_its_own_where_it_was_measured() -> None:
    upstream = AgainstUpstream(pairs=81, mean_iou=0.99994, others=0, seconds=0.5)
    printed = StringIO()
    verdict = replace(GOOD, upstream=upstream)
    Console(file=printed, width=160).print(table([(SUBJECT, verdict)]))
    lines = printed.getvalue().splitlines()
    assert lines[1].split()[-9:] == ["80", "0.9991", "1", "3.0", "s", "1.0", "s", "3.00x", "off"]
    assert "upstream" in lines[2]
    assert lines[2].split()[-9:] == ["81", "0.9999", "0", "3.0", "s", "0.5", "s", "6.00x", "on"]
    assert sentence(verdict).endswith("in 0.5 s; upstream's own code runs")


def test_a_refusal_says_why() -> None:
    assert (
        sentence(BAD)
        == "turbo stays off: its masks have a mean IoU of 0.9700 with those of exact, less than"
        " 0.99"
    )
    assert "INFERENCE_MODE=turbo" in sentence(GOOD)


def test_progress_is_a_line_now_and_then() -> None:
    said: list[str] = []
    counter = Counter("demo-yolo", said.append)
    for done in range(1, 23):
        counter(done, 22)
    assert [line.split()[1] for line in said] == ["5", "10", "15", "20", "22"]


@pytest.mark.parametrize(("verdict", "exit_code"), [(GOOD, 0), (BAD, 1)])
def test_the_exit_code_says_whether_turbo_may_run(
    verdict: ParityVerdict, exit_code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a deployment can ask before it sets the mode."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DEVICE", "cpu")
    gate.keep(tmp_path / "parity", parity_subject("demo-yolo", Settings()), verdict)
    done = CliRunner().invoke(app, ["parity", "demo-yolo"])
    assert done.exit_code == exit_code
    assert sentence(verdict) in done.output
