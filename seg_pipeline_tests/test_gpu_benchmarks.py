"""The GPU benchmarks' own code, tried on the CPU: on a card nobody can mend it."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import running
from benchmarks.gpu.__main__ import REPORT, machine, no_gpu, put, section
from benchmarks.gpu.findings import Agreement, Finding, read_findings, write_findings
from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.running import PROJECT, Outcome, outcomes
from benchmarks.gpu.wheels import PACKAGES, pinned
from benchmarks.tables import Row

pytestmark = pytest.mark.process

SEEN = {"torch": "2.15", "cuda": "13.2", "devices": ["NVIDIA A", "NVIDIA B"], "complaint": None}


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules the parts' processes can import."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def part(modules: Path, name: str, body: str, seconds: float = 60) -> Part:
    lines = [
        "import os, time",
        "from benchmarks.gpu.findings import Agreement",
        "from benchmarks.tables import Row",
        "def measure(asked):",
        *(f"    {line}" for line in body.splitlines()),
    ]
    (modules / f"{name}.py").write_text("\n".join(lines))
    return Part(name, seconds)


def test_every_part_has_its_module() -> None:
    missing = [name for name, each in PARTS.items() if not _file(each.module).is_file()]
    assert missing == []


def _file(module: str) -> Path:
    return PROJECT / f"{module.replace('.', '/')}.py"


def test_what_a_part_raises_is_told_with_what_it_found_before_and_the_next_part_runs(
    modules: Path,
) -> None:
    parts = {
        "bad": part(modules, "bad", "yield Row('a', '1')\nraise ValueError('no such kernel')"),
        "dead": part(modules, "dead", "yield Row('b', '2')\nos.abort()"),
        "slow": part(modules, "slow", "yield Row('c', '3')\ntime.sleep(600)", seconds=6),
        "good": part(modules, "good", "yield Row(asked.device, str(asked.short))"),
    }
    bad, dead, slow, good = outcomes(parts, "cpu", short=True, all_seconds=100)
    assert [each.findings for each in (bad, dead, slow)] == [
        [Row("a", "1")], [Row("b", "2")], [Row("c", "3")],
    ]  # fmt: skip
    assert bad.failure == "it ended with exit code 1"
    assert "Traceback" in bad.output
    assert "ValueError: no such kernel" in bad.output
    assert dead.failure == "it was killed by SIGABRT"
    assert slow.failure == "it was ended after 6 s"
    assert (good.failure, good.findings) == (None, [Row("cpu", "True")])
    assert [each.is_good for each in (bad, dead, slow, good)] == [False, False, False, True]


def test_the_command_writes_what_it_has_and_fails_when_parts_fail(
    modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that runs out, a compiler that is missing, a hang, and no time left for the last."""
    out_of_memory = (
        "import torch\nyield Row('upstream', '900')\nraise torch.OutOfMemoryError('full')"
    )
    parts = {
        "full": part(modules, "full", out_of_memory),
        "bare": part(modules, "bare", "raise RuntimeError('Failed to find C compiler')"),
        "hung": part(modules, "hung", "yield Row('turbo', '70')\ntime.sleep(600)", seconds=6),
        "late": part(modules, "late", "yield Row('never', '1')"),
    }
    monkeypatch.setattr(command, "PARTS", parts)
    monkeypatch.setattr(command, "what_torch_sees", lambda: SEEN)
    clock = Clock(monkeypatch, each_look=15)
    report = modules / "report.md"
    assert command.main(["--device", "cpu", "--report", str(report), "--seconds", "150"]) == 1
    text = report.read_text()
    assert clock.looks > 4
    expected = (
        "| upstream | 900",
        "OutOfMemoryError: full",
        "Failed to find C compiler",
        "| turbo | 70",
        "it was ended after 6 s",
        "no time was left of 150 s",
    )
    for seen in expected:
        assert seen in text
    assert "never" not in text


class Clock:
    """The runner's clock, which goes on by some seconds each time it is looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, each_look: float) -> None:
        self.looks, self._each_look = 0, each_look
        monkeypatch.setattr(running, "time", self)

    def monotonic(self) -> float:
        self.looks += 1
        return self.looks * self._each_look


def test_what_a_part_started_ends_with_it(modules: Path) -> None:
    """A service that was left behind would take the card from the next part."""
    body = (
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "yield Row('pid', str(child.pid))\n"
        "raise ValueError"
    )
    (outcome,) = outcomes({"leaves": part(modules, "leaves", body)}, "cpu", True, 100)
    (row,) = outcome.findings
    assert isinstance(row, Row)
    assert psutil.wait_procs(_processes(int(row.median)), timeout=30)[1] == []


def _processes(pid: int) -> list[psutil.Process]:
    """The process, if it is still there."""
    with suppress(psutil.NoSuchProcess):
        return [psutil.Process(pid)]
    return []


def test_a_part_that_would_begin_too_late_is_not_measured(modules: Path) -> None:
    (outcome,) = outcomes({"late": part(modules, "late", "yield Row('a', '1')")}, "cpu", True, 1)
    assert outcome.failure == "no time was left of 1 s"


def test_an_agreement_that_does_not_hold_is_no_good_outcome() -> None:
    outcome = Outcome("masks", [Agreement("the same bits", False, "3 of 9 differ")], 1.0)
    assert not outcome.is_good
    assert "| the same bits | FAILS | 3 of 9 differ | holds |" in section("card", [outcome])


def test_findings_come_back_from_their_file_without_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "findings"
    findings: list[Finding] = [Row("a", "1", "0 to 2", "3"), Agreement("b", True, "all")]
    write_findings(path, findings)
    with path.open("a") as file:
        file.write('{"kind": "Row", "fig')
    assert [*read_findings(path)] == findings
    assert [*read_findings(tmp_path / "none")] == []


def test_the_section_names_the_card_and_what_was_not_measured(tmp_path: Path) -> None:
    failed = Outcome("sam2", [Row("a", "1")], 2.0, "it ended with exit code 1", "x\nOSError: y")
    report = tmp_path / "report.md"
    put(report, section(machine(SEEN, "cuda:1"), [failed]))
    put(report, section(machine(SEEN, "cuda:1"), [failed]))
    text = report.read_text()
    assert text.count("NVIDIA B") == 1
    assert "not measured to its end: it ended with exit code 1. Its last line: `OSError: y`" in text
    assert "no GPU used" in machine(SEEN, "cpu")


def test_a_report_that_cannot_be_written_costs_no_figures(tmp_path: Path) -> None:
    (tmp_path / "without-markers.md").write_text("text")
    put(tmp_path / "without-markers.md", "figures")
    put(tmp_path / "no" / "folder.md", "figures")
    assert (tmp_path / "without-markers.md").read_text() == "text"


def test_the_report_has_the_section() -> None:
    text = REPORT.read_text()
    assert "<!-- gpu -->" in text
    assert "<!-- /gpu -->" in text


def test_the_wheels_for_a_bare_machine_are_in_the_lock() -> None:
    pins = pinned()
    assert len(pins) == len(PACKAGES)
    assert {"sam2==1.1.0"} < set(pins)


def test_without_a_gpu_it_says_so_in_a_sentence() -> None:
    sentence = no_gpu({"torch": "2.15", "devices": [], "complaint": "driver too old"})
    assert "torch 2.15 sees no GPU here (driver too old)" in sentence
    assert "--device cpu --short" in sentence


def test_without_a_gpu_nothing_is_measured() -> None:
    hidden = {"CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin:/bin"}
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"],
        cwd=PROJECT,
        env=hidden,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (answer.returncode, answer.stdout) == (2, "")
    assert len(answer.stderr.splitlines()) == 1


NOT_ON_A_BARE_MACHINE = (
    "boto3", "celery", "dagster", "fastapi", "kombu", "obstore", "pillow_jxl", "pi_heif",
    "prometheus_client", "rich", "sqlalchemy", "starlette", "structlog", "typer", "uvicorn",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_each_part_runs_reduced_on_the_cpu(name: str, modules: Path) -> None:
    """All but the service's with torch and what `benchmarks.gpu.wheels` makes alone."""
    if name != "service":
        missing = f"import sys\nsys.modules.update(dict.fromkeys({NOT_ON_A_BARE_MACHINE}))"
        (modules / "sitecustomize.py").write_text(missing)
    (outcome,) = outcomes({name: Part(PARTS[name].module, 280)}, "cpu", True, 290)
    assert outcome.failure is None, outcome.output
    assert outcome.disagreements == []
    assert len(outcome.findings) > 1
    assert json.dumps([each.__dict__ for each in outcome.findings])
