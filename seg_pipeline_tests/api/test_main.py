"""The process: what it imports, how it starts, how it ends."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from seg_pipeline_tests.api.serving import eventually
from seg_pipeline_tests.builders import picture_bytes

pytestmark = pytest.mark.slow

HOST = "127.0.0.1"

IMPORTS = """
import pathlib, re, sys, time
started = time.perf_counter()
import api.app, api.main
from seg_pipeline.settings import Settings
api.app.create_app(Settings(_env_file=None))
heavy = {"boto3", "celery", "cv2", "dagster", "matplotlib", "pandas", "pycocotools", "sam2",
         "scipy", "sqlalchemy", "torch", "torchvision", "ultralytics", "seg_pipeline.segmenters",
         "seg_pipeline.defs"}
print(sorted(heavy & set(sys.modules)))
status = pathlib.Path("/proc/self/status").read_text()
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) // 1024)
print(f"{time.perf_counter() - started:.2f} s")
"""


def test_the_api_starts_without_the_heavy_libraries_and_stays_small() -> None:
    """No dagster and no torch in its process: that is what keeps it under 150 MB and quick to
    start."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True
    )
    heavy, megabytes, seconds = done.stdout.splitlines()
    print(f"imported in {seconds}, {megabytes} MB resident")
    assert heavy == "[]"
    assert int(megabytes) < 150


def test_a_port_in_use_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        done = run_main(tmp_path, API_PORT=str(port))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"127.0.0.1 port {port}" in done.stderr
    assert "API_PORT" in done.stderr


def test_a_setting_that_cannot_be_is_one_line_that_names_it(tmp_path: Path) -> None:
    done = run_main(tmp_path, API_PORT="99999999", WAIT_SECONDS="soon")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "API_PORT" in done.stderr
    assert "WAIT_SECONDS" in done.stderr


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_whoever_waits_is_answered_when_the_process_is_told_to_end(
    tmp_path: Path, ending: signal.Signals
) -> None:
    """Deploying must not look like a failure: the job is accepted, and its address is the
    answer."""
    answers: list[httpx.Response] = []
    with main_running(tmp_path, WAIT_SECONDS="300") as (process, url):
        waiting = threading.Thread(
            target=lambda: answers.append(
                httpx.post(f"{url}/segment", content=picture_bytes(), timeout=60)
            )
        )
        waiting.start()
        eventually(lambda: "seg_api_requests_waiting 1.0" in httpx.get(f"{url}/metrics").text)
        process.send_signal(ending)
        process.wait(30)
        waiting.join()
    assert answers[0].status_code == 202
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert answers[0].headers["location"] == f"/jobs/{answers[0].json()['uuid']}"


def test_a_client_that_never_finishes_does_not_keep_the_process_from_ending(tmp_path: Path) -> None:
    with (
        main_running(tmp_path) as (process, url),
        socket.create_connection((HOST, httpx.URL(url).port or 0)) as wire,
    ):
        wire.sendall(b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
        eventually(lambda: "seg_api_requests_under_way 1.0" in httpx.get(f"{url}/metrics").text)
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def environment(folder: Path, **values: str) -> dict[str, str]:
    """The tests' own environment without any setting of this service, and these."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {
        **kept,
        "DATA_DIR": str(folder / "data"),
        "MODEL": "demo-yolo",
        "PYTHONPATH": str(Path.cwd()),
        **values,
    }


def run_main(folder: Path, **values: str) -> subprocess.CompletedProcess[str]:
    """`python -m api.main` until it ends by itself."""
    command = [sys.executable, "-m", "api.main"]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(folder, **values),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def main_running(folder: Path, **values: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`python -m api.main` on a free port, killed at the end if it still runs."""
    with socket.create_server((HOST, 0)) as probe:
        port = probe.getsockname()[1]
    env = environment(folder, API_PORT=str(port), **values)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "api.main"], cwd=folder, env=env, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: answers(url))
        yield process, url
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    """Whether somebody listens there."""
    try:
        return httpx.get(f"{url}/livez").status_code == 200
    except httpx.TransportError:
        return False
