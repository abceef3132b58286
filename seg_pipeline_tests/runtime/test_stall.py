"""A child whose run makes no progress ends itself, or is ended by its parent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from seg_pipeline.domain import Lane
from seg_pipeline.errors import StoreUnavailable
from seg_pipeline.jobs.evidence import Evidence, read_evidence
from seg_pipeline.pipeline.run_context import RunIdentity
from seg_pipeline.pipeline.stages import record_stall
from seg_pipeline.runtime import stall
from seg_pipeline_tests.builders import make_context


class Instance:
    """Notes what is written into runs' logs."""

    def __init__(self, error: Exception | None = None) -> None:
        self.said: list[str] = []
        self._error = error

    def get_run_by_id(self, run_id: str) -> str:
        if self._error:
            raise self._error
        return run_id

    def report_engine_event(self, message: str, run: str) -> None:
        self.said.append(f"{run}: {message}")


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The signals that are sent, and to whom."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *arguments: sent.append(arguments))
    return sent


def test_the_run_s_log_says_why_its_process_ends(killed: list[tuple[int, int]]) -> None:
    instance = Instance()
    stall.end_this_process(instance, "run-1", 1800, lambda: instance.said.append("recorded"))  # type: ignore[arg-type]
    why = "The run made no progress for 1800 s; its worker's process is ended."
    assert instance.said == ["recorded", f"run-1: {why}"]
    assert killed == [(os.getpid(), signal.SIGKILL)]


def test_it_ends_although_nobody_can_be_told(killed: list[tuple[int, int]]) -> None:
    def away() -> None:
        raise StoreUnavailable("It is away.")

    for instance, record in ((Instance(OSError("refused")), lambda: None), (Instance(), away)):
        stall.end_this_process(instance, "run-1", 1800, record)  # type: ignore[arg-type]
    assert killed == 2 * [(os.getpid(), signal.SIGKILL)]


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        (RunIdentity("run-1", "key", 1), Evidence("run-1", "stalled")),
        (RunIdentity("run-1", "key", 2, Lane.BATCH), None),
        (RunIdentity("run-1", None, 1), None),
    ],
)
def test_a_job_is_to_blame_if_it_had_the_run_alone(
    tmp_path: Path, identity: RunIdentity, expected: Evidence | None
) -> None:
    context = make_context(tmp_path)
    with context.one_run():
        context.run.begin((), identity)
        record_stall(context, ["job-1"])
    assert read_evidence(context.store, "job-1") == expected


def test_a_parent_looks_on_although_its_child_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Looked(Exception):
        pass

    class Gone:
        def __init__(self) -> None:
            self.looks = iter([999_999_999, None])

        def stalled(self, _: float) -> int | None:
            try:
                return next(self.looks)
            except StopIteration:
                raise Looked from None

        def end(self) -> None:
            pass

    monkeypatch.setattr(stall, "LOOK_SECONDS", 0)
    with pytest.raises(Looked):
        stall._watch(Gone(), 1800)  # type: ignore[arg-type]


FAMILY = """
import os, signal
from seg_pipeline.telemetry.activity import ACTIVITY
from seg_pipeline.runtime import stall

stall.LATER_SECONDS, stall.LOOK_SECONDS = 0.2, 0.05
stall.watch_child(ACTIVITY, 0.1)
child = os.fork()
if not child:
    ACTIVITY.begin()
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(0)
_, status = os.waitpid(child, 0)
print(os.WTERMSIG(status), ACTIVITY.stalled(0))
"""


@pytest.mark.process
def test_a_parent_kills_a_child_that_cannot_end_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAMILY], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.returncode) == (f"{int(signal.SIGKILL)} None\n", 0)
    assert "made no progress for 0.3 s; it is killed" in done.stderr
