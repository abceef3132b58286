"""What a new user does, for real: the whole service is started, used, broken and stopped."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic_settings import SettingsConfigDict

from seg_pipeline.local.sample import BUNDLED, SegmentedSample, abridged, ask, sample_picture
from seg_pipeline.local.stack import check_ports, check_store, only_one, with_demo_models
from seg_pipeline.local.supervisor import SupervisorError
from seg_pipeline.settings import Settings
from seg_pipeline.store import keys, open_store
from seg_pipeline_tests.conftest import make_settings
from seg_pipeline_tests.running_stack import Stack, free_ports, has_processes

PROGRAMS = {"api", "code-server", "daemon", "fetcher", "webserver", "worker"}
SERVERS = {"postgres", "redis", "worker-2"}


def programs_of(stack: Stack) -> set[str]:
    """What runs on the stack's profile."""
    return PROGRAMS | SERVERS if stack.profile == "servers" else PROGRAMS


def up(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `seg-pipeline up` to its end."""
    inherited = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
    return subprocess.run(
        [sys.executable, "-m", "seg_pipeline.cli", "up", *options],
        cwd=folder, env={**inherited, **environment}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_the_sample_is_segmented(stack: Stack) -> None:
    sample = stack.send_sample()
    assert sample.found > 0
    assert sample.document["file_names"][0].endswith("/original.webp")
    assert len(sample.document["file_names"]) == 1 + sample.found


@pytest.mark.slow
def test_every_file_of_an_answer_can_be_fetched(stack: Stack) -> None:
    for url in stack.send_sample().document["urls"]:
        answer = ask("GET", url)
        assert (answer.status, answer.headers["content-type"]) == (200, "image/webp")


@pytest.mark.slow
def test_the_start_is_a_few_lines_and_says_what_a_demo_model_is(stack: Stack) -> None:
    start, end, _ = stack.output().partition("Ctrl-C stops everything.")
    assert "knows only generated shapes" in start
    assert end
    assert len(start.splitlines()) <= 12, start


@pytest.mark.slow
def test_dagster_shows_our_code(stack: Stack) -> None:
    query = "{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus } } } }"
    entries = stack.graphql(query)["workspaceOrError"]["locationEntries"]
    assert entries == [{"name": "seg_pipeline.definitions", "loadStatus": "LOADED"}]


@pytest.mark.slow
def test_dagster_shows_what_a_run_has_logged(stack: Stack) -> None:
    uuid = stack.send_sample().document["uuid"]
    stack.wait_for(lambda: stack.run_log(uuid) != "", "log of the run")
    lines = [json.loads(line) for line in stack.run_log(uuid).splitlines()]
    assert {line["process"] for line in lines} == {"worker"}
    assert uuid in {line.get("uuid") for line in lines}
    assert "segments: 1 of 1 jobs go on" in stack.run_log(uuid)


@pytest.mark.slow
def test_a_second_start_in_the_same_folder_is_one_clear_line(stack: Stack) -> None:
    ports = [str(port) for port in free_ports(2)]
    second = up(stack.folder, API_PORT=ports[0], DAGSTER_PORT=ports[1])
    assert second.returncode == 1
    assert second.stderr.splitlines() == [
        f"seg-pipeline: already running on data (process {stack.process.pid}); stop it or set"
        " DATA_DIR."
    ]


@pytest.mark.slow
def test_every_process_comes_back_when_it_is_killed_and_finds_the_others(stack: Stack) -> None:
    before, pids = stack.output(), stack.pids()
    for name in pids:
        stack.kill(name)
    programs = programs_of(stack)
    stack.wait_for(
        lambda: stack.pids().keys() >= programs and not pids.items() & stack.pids().items(),
        "new processes",
    )
    stack.wait_for(stack.is_ready, "being ready again")
    assert stack.send_sample().found > 0
    lines = stack.output().removeprefix(before).splitlines()
    assert sorted(line.split()[0] for line in lines if "was ended by SIGKILL" in line) == sorted(
        programs
    )


@pytest.mark.slow
def test_killing_the_supervisor_leaves_nothing_in_the_way_of_the_next_start(
    tmp_path: Path, profile: str
) -> None:
    stack = Stack(tmp_path, profile=profile)
    stack.start()
    assert stack.pids().keys() == programs_of(stack)
    groups = set(stack.pids().values())
    stack.process.kill()
    stack.process.wait()
    give_up_at = time.monotonic() + 30
    while any(has_processes(group) for group in groups):
        assert time.monotonic() < give_up_at
        time.sleep(0.1)
    stack.start()
    assert stack.stop(signal.SIGTERM) == 0
    assert stack.pids() == {}


@pytest.mark.slow
def test_up_can_stop_after_the_sample(tmp_path: Path) -> None:
    """What continuous integration runs: exit code 0 means that a picture went all the way."""
    ports = [str(port) for port in free_ports(2)]
    done = up(tmp_path, "--exit-after-sample", API_PORT=ports[0], DAGSTER_PORT=ports[1])
    assert done.returncode == 0, done.stderr
    assert '"status": "completed"' in done.stdout


@pytest.mark.process
def test_a_port_in_use_is_one_clear_line_and_no_traceback(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = up(tmp_path, API_PORT=str(port))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"seg-pipeline: port {port} on 127.0.0.1: address already in use; stop what uses it, or set"
        " API_PORT."
    ]


def test_two_services_on_one_port_are_refused() -> None:
    with pytest.raises(SupervisorError, match="API_PORT and DAGSTER_PORT are both 9000"):
        check_ports(_settings(api_port=9000, dagster_port=9000))


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(SupervisorError, match=r"port 9000 on 192\.0\.2\.1: .*set API_PORT"):
        check_ports(_settings(api_host="192.0.2.1", api_port=9000))


@pytest.mark.slow
def test_a_missing_model_is_one_clear_line_and_no_traceback(tmp_path: Path) -> None:
    ports = [str(port) for port in free_ports(2)]
    done = up(tmp_path, MODEL="/nowhere/mine.pt", API_PORT=ports[0], DAGSTER_PORT=ports[1])
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "seg-pipeline: the weights /nowhere/mine.pt are not there; name an existing .pt file, or"
        " demo-yolo."
    ]


@pytest.mark.process
def test_a_setting_that_is_wrong_is_one_clear_line_and_no_traceback(tmp_path: Path) -> None:
    done = up(tmp_path, API_PORT="eighty")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("seg-pipeline: API_PORT: Input should be a valid integer")


@pytest.mark.process
def test_a_data_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    ports = [str(port) for port in free_ports(2)]
    done = up(tmp_path, API_PORT=ports[0], DAGSTER_PORT=ports[1])
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "seg-pipeline: the data folder data cannot be used: File exists; set DATA_DIR."
    ]


def test_a_folder_is_held_by_one_start_at_a_time(tmp_path: Path) -> None:
    refusal = pytest.raises(SupervisorError, match=f"already running on .*process {os.getpid()}")
    with only_one(tmp_path), refusal, only_one(tmp_path):
        pass
    with only_one(tmp_path):
        pass


def test_what_a_process_left_in_the_lock_file_when_it_was_killed_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "seg-pipeline.pid").write_text("1\n")
    with only_one(tmp_path), (tmp_path / "seg-pipeline.pid").open() as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert file.read() == f"{os.getpid()}\n"


def test_the_demo_models_are_named_only_where_the_user_named_none() -> None:
    settings, is_demo = with_demo_models(_settings())
    assert (settings.model, settings.queue_model, is_demo) == ("demo-yolo", "demo-sam2", True)
    settings, is_demo = with_demo_models(_settings(model="yolov8x-seg"))
    assert (settings.model, settings.queue_model, is_demo) == (
        "yolov8x-seg",
        "sam2.1_hiera_large",
        False,
    )
    settings, is_demo = with_demo_models(_settings(queue_model="sam2.1_hiera_tiny"))
    assert (settings.model, settings.queue_model, is_demo) == (
        "demo-yolo",
        "sam2.1_hiera_tiny",
        True,
    )


def test_the_supervisor_is_light() -> None:
    """It stays in memory beside the processes that do the work, and its start is part of every
    start."""
    code = (
        "import sys, seg_pipeline.local.stack; print([m for m in sys.argv[1:] if m in sys.modules])"
    )
    heavy = ["torch", "dagster", "fastapi", "celery", "ultralytics", "boto3", "httpx"]
    done = subprocess.run(
        [sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_demo_model_gets_the_picture_that_it_knows_and_a_real_one_a_street() -> None:
    assert sample_picture("demo-yolo") == BUNDLED
    assert sample_picture("yolov8x-seg").name == "bus.jpg"
    assert BUNDLED.exists()


def test_long_lists_of_an_answer_are_cut_for_the_terminal() -> None:
    document = {"urls": ["a", "b", "c"], "segments": [{"points": [1, 2]}]}
    assert abridged(document) == {
        "urls": ["a", "... and 2 more"],
        "segments": [{"points": [1, "... and 1 more"]}],
    }


def test_an_answer_counts_its_segments() -> None:
    assert SegmentedSample({"segments": [{}, {}]}, seconds=1).found == 2
    assert SegmentedSample({"status": "completed"}, seconds=1).found == 0


class _WithoutEnvironment(Settings):
    """Settings as they are where neither the environment nor `.env` says anything."""

    model_config = SettingsConfigDict(env_file=None, env_prefix="NOBODY_SETS_THIS_")


def _settings(**values: object) -> Settings:
    return _WithoutEnvironment(**values)  # type: ignore[arg-type]


def test_what_a_newer_version_has_written_is_refused_in_one_sentence(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    open_store(settings).put(keys.FORMAT, b'{"format": 99, "written_by": "9.1"}')
    with pytest.raises(
        SupervisorError,
        match=r"format 99, written by version 9\.1; .* start the newer version again",
    ):
        check_store(settings)
