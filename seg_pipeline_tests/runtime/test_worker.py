"""How a worker ends: at once when it has nothing in hand."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from seg_pipeline.runtime import worker


class Gone(BaseException):
    """What ends a process at once."""


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens to a child whose ends are replaced."""
    told: list[str] = []

    def leave(code: int) -> None:
        told.append(f"left with {code}")
        raise Gone

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(worker, "child", SimpleNamespace(pulse=SimpleNamespace(stop=lambda: told.append("beat gone"))))
    return told


def test_a_child_that_ended_well_takes_its_beat_away_and_goes_at_once(story: list[str]) -> None:
    """Else the pool has it sleep for a second."""
    with pytest.raises(Gone):
        worker._end_child(pid=1, exitcode=0)
    assert story == ["beat gone", "left with 0"]


def test_of_a_child_that_failed_the_pool_hears(story: list[str]) -> None:
    worker._end_child(pid=1, exitcode=1)
    assert story == ["beat gone"]


def test_a_worker_that_has_stopped_does_not_wait_for_sleeping_threads(
    story: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "make_worker", lambda: SimpleNamespace(worker_main=lambda _: story.append("stopped")))
    monkeypatch.setattr("logging.shutdown", lambda: story.append("log written"))
    with pytest.raises(Gone):
        worker.main()
    assert story == ["stopped", "log written", "left with 0"]


UNPREPARED = """
from seg_pipeline.runtime import worker
worker._free_locks_of_the_dead = lambda: 1 / 0
worker.main()
"""


@pytest.mark.parametrize("broker", ["folder", "redis"])
def test_a_worker_whose_child_cannot_be_prepared_ends_and_says_why(
    broker: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Celery logs what a start hook raises and goes on: the worker would be there, and never beat."""
    url = request.getfixturevalue("redis_url") if broker == "redis" else ""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    ended = subprocess.run(
        [sys.executable, "-c", UNPREPARED], env={**inherited, "DATA_DIR": str(tmp_path), "BROKER_URL": url},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == os.EX_SOFTWARE
    assert "the worker cannot start" in ended.stderr
    assert "ZeroDivisionError" in ended.stderr


FAMILY = """
import os, signal, threading, time
from billiard.util import set_pdeathsig
from seg_pipeline.runtime.worker import end_with_parent

lifeline = os.pipe()

def fork():
    if not os.fork():
        set_pdeathsig(signal.SIGKILL)  # as the pool does
        end_with_parent(*lifeline)
        print("begun", flush=True)
        time.sleep(1)
        print("lives", flush=True)
        signal.pause()

thread = threading.Thread(target=fork)
thread.start()
thread.join()
signal.pause()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the parent-death signal")
def test_a_child_outlives_the_thread_that_forked_it_and_not_the_process() -> None:
    with subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        assert [parent.stdout.readline() for _ in range(2)] == ["begun\n", "lives\n"]
        parent.send_signal(signal.SIGKILL)
        assert parent.stdout.read() == ""  # ends when the child does, which has the other end
