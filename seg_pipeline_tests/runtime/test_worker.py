"""How a worker ends: at once when it has nothing in hand."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from seg_pipeline.jobs.heartbeats import all_workers
from seg_pipeline.runtime import worker
from seg_pipeline.settings import Settings
from seg_pipeline.store import open_store
from seg_pipeline_tests.builders import make_context
from seg_pipeline_tests.conftest import make_settings
from seg_pipeline_tests.pauses import note_pauses

pytestmark = pytest.mark.process


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
    heartbeat_thread = SimpleNamespace(stop=lambda: told.append("beat gone"))
    reporter = SimpleNamespace(close=lambda: told.append("counts written"))
    child = SimpleNamespace(
        heartbeat_thread=heartbeat_thread,
        reporter=reporter,
        finish_run_logs=lambda: told.append("logs kept"),
    )
    monkeypatch.setattr(worker, "child", child)
    return told


def test_a_child_that_ended_well_takes_its_beat_away_and_goes_at_once(story: list[str]) -> None:
    """Else the pool has it sleep for a second."""
    with pytest.raises(Gone):
        worker._end_child(pid=1, exitcode=0)
    assert story == ["beat gone", "counts written", "logs kept", "left with 0"]


def test_of_a_child_that_failed_the_pool_hears(story: list[str]) -> None:
    worker._end_child(pid=1, exitcode=1)
    assert story == ["beat gone", "counts written", "logs kept"]


def test_a_worker_that_has_stopped_does_not_wait_for_sleeping_threads(
    story: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        worker,
        "make_worker",
        lambda: SimpleNamespace(worker_main=lambda _: story.append("stopped")),
    )
    monkeypatch.setattr("logging.shutdown", lambda: story.append("log written"))
    for name in ("make_dagster_home_ready", "take_over_logs"):  # they change this process for good
        monkeypatch.setattr(worker, name, lambda _: None)
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
    """Celery logs what a start hook raises and goes on: the worker would be there, and never
    beat."""
    url = request.getfixturevalue("redis_url") if broker == "redis" else ""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    ended = subprocess.run(
        [sys.executable, "-c", UNPREPARED], env={**inherited, "DATA_DIR": str(tmp_path),
                                                 "BROKER_URL": url},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == os.EX_SOFTWARE
    assert "the worker cannot start" in ended.stderr
    assert "ZeroDivisionError" in ended.stderr


RUNS_WITHOUT_CODE = """
import dagster as dg
from seg_pipeline.runtime.celery_app import EXECUTE_RUN_TASK, make_celery
from seg_pipeline.runtime.dagster_home import make_dagster_home_ready
from seg_pipeline.settings import get_settings

@dg.job
def nothing():
    pass

settings = get_settings()
make_dagster_home_ready(settings)
with dg.DagsterInstance.get() as instance:
    for _ in range(4):
        run = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTING)
        make_celery(settings).send_task(
            EXECUTE_RUN_TASK, args=[run.run_id], queue=settings.celery_queue
        )
"""


def test_a_worker_whose_runs_cannot_begin_takes_itself_out_and_says_why(tmp_path: Path) -> None:
    """No definitions, no storage, no memory: whatever it is, it would spoil one run after the
    other."""
    settings = make_settings(tmp_path)
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment = {**inherited, "DATA_DIR": str(settings.data_dir)}
    subprocess.run(
        [sys.executable, "-c", RUNS_WITHOUT_CODE], env=environment, timeout=120, check=True
    )
    ended = subprocess.run(
        [sys.executable, "-m", "seg_pipeline.runtime.worker"], env=environment,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == os.EX_SOFTWARE, ended.stderr
    why = "3 runs in a row failed before their first stage, the last of: "
    assert f"this worker takes itself out: {why}" in ended.stderr
    (heartbeat,) = all_workers(open_store(settings))
    assert (heartbeat.problem or "").startswith(why)
    assert "does not include an origin" in (heartbeat.problem or "")
    assert heartbeat.idle_since is None


class Storage:
    """A Dagster instance that is away for the first few questions."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def get_run_by_id(self, run_id: str) -> str:
        if self.failures:
            self.failures -= 1
            raise OSError("connection refused\nmore of it")
        return f"the run {run_id}"


def test_a_worker_waits_for_dagsters_storage_with_its_run_in_hand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says so meanwhile. If it went on, each message that it takes would be a lost run."""
    heartbeat_thread = SimpleNamespace(problem=None)
    slept: list[str | None] = []
    monkeypatch.setattr(
        worker, "child", SimpleNamespace(instance=Storage(3), heartbeat_thread=heartbeat_thread)
    )
    note_pauses(monkeypatch, lambda _: slept.append(heartbeat_thread.problem))
    found: object = worker._look_up("run-1")
    assert found == "the run run-1"
    assert slept == 3 * ["Dagster's storage does not answer: connection refused"]
    assert heartbeat_thread.problem is None


def test_a_heartbeat_outlives_a_database_that_is_away(
    folder_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks there for a cancel. Without a beat the worker would count as dead, and its jobs be
    done twice."""

    def away(*_: object) -> bool:
        looked.set()
        raise OSError("connection refused")

    looked = threading.Event()
    monkeypatch.setattr(worker, "get_settings", lambda: folder_settings)
    monkeypatch.setattr(
        worker, "shared_stage_context", lambda: make_context(folder_settings.data_dir)
    )
    monkeypatch.setattr(worker, "child", SimpleNamespace(instance=None))
    monkeypatch.setattr(worker, "is_cancelled", away)
    heartbeat_thread = worker.HeartbeatThread("worker-1")
    with heartbeat_thread.during("run-1", ["a"]):
        heartbeat_thread.start()
        assert looked.wait(30)
        assert heartbeat_thread.is_alive()
    heartbeat_thread.stop()
    heartbeat_thread.join(30)


def test_a_heartbeat_that_fails_in_a_way_nobody_foresaw_is_followed_by_others(
    folder_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[object] = []
    beaten = threading.Event()

    def fail_once(_: object, heartbeat: object) -> None:
        written.append(heartbeat)
        if len(written) == 1:
            raise RuntimeError("a fault of ours")
        beaten.set()

    quick = folder_settings.model_copy(update={"heartbeat_seconds": 0.01})
    monkeypatch.setattr(worker, "get_settings", lambda: quick)
    monkeypatch.setattr(
        worker, "shared_stage_context", lambda: make_context(folder_settings.data_dir)
    )
    monkeypatch.setattr(worker, "write_heartbeat", fail_once)
    heartbeat_thread = worker.HeartbeatThread("worker-1")
    heartbeat_thread.start()
    assert beaten.wait(30)
    heartbeat_thread.stop()
    heartbeat_thread.join(30)


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
    with subprocess.Popen(
        [sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        assert [parent.stdout.readline() for _ in range(2)] == ["begun\n", "lives\n"]
        parent.send_signal(signal.SIGKILL)
        assert parent.stdout.read() == ""  # ends when the child does, which has the other end
