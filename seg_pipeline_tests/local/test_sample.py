"""The sample of `make run`, sent to a small API of our own that dies, refuses or answers."""

import json
import sys
from pathlib import Path

import pytest

from seg_pipeline.local import servers, stack
from seg_pipeline.local.sample import BUNDLED, SampleFailed, send_sample
from seg_pipeline.local.supervisor import Program, Supervisor, SupervisorError
from seg_pipeline.settings import Settings
from seg_pipeline_tests.conftest import make_settings
from seg_pipeline_tests.running_stack import free_ports

API = """
import json, os, pathlib, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

port, folder = int(sys.argv[1]), pathlib.Path(sys.argv[2])
deaths, status, answer = map(json.loads, sys.argv[3:])

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        uuid = self.path.partition("uuid=")[2]
        with (folder / "sent").open("a") as sent:
            sent.write(uuid + "\\n")
        if len((folder / "sent").read_text().splitlines()) <= deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
OVERLAY = "http://127.0.0.1/assets/sample-1/overlay.webp"
FOUND = json.dumps(
    {"uuid": "sample-1", "status": "completed", "segments": [1], "overlay_url": OVERLAY}
)
NOTHING = '{"error": "No masks found"}'
REFUSED = '{"error": "The disk is full.", "code": "store_full"}'


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a free port for the API."""
    return make_settings(tmp_path, api_port=free_ports(1)[0], model="demo-yolo")


def make_api(
    settings: Settings, folder: Path, deaths: int = 0, status: int = 200, answer: str = FOUND
) -> Program:
    arguments = [str(settings.api_port), str(folder), str(deaths), str(status), answer]
    is_ready = lambda: servers.listens("127.0.0.1", settings.api_port)  # noqa: E731
    return Program("api", [sys.executable, "-c", API, *arguments], is_ready=is_ready)


def sent(folder: Path) -> list[str]:
    """The uuids that were sent."""
    return (folder / "sent").read_text().splitlines()


@pytest.mark.process
def test_a_sample_is_sent_again_as_the_same_job_when_the_api_is_killed_under_it(
    tmp_path: Path, settings: Settings
) -> None:
    said: list[str] = []
    with Supervisor(
        [make_api(settings, tmp_path, deaths=2)], tmp_path / "logs", said.append
    ) as supervisor:
        supervisor.wait_until_ready()
        assert stack.show_sample(settings, supervisor, said.append).found == 1
    assert not [line for line in said if "warm" in line], "another worker may have taken it"
    assert any(line.endswith("loads the model at its first picture.") for line in said)
    first = sent(tmp_path)[0]
    assert first.startswith("sample-")
    assert [uuid == first for uuid in sent(tmp_path)] == [
        True,
        True,
        True,
        False,
    ]  # the last is the second sample
    assert sum("api was ended by SIGKILL" in line for line in said) == 2


@pytest.mark.process
def test_a_sample_leads_to_its_overlay_and_its_page_in_dagster(
    tmp_path: Path, settings: Settings
) -> None:
    said: list[str] = []
    api = make_api(settings, tmp_path)
    warm = settings.model_copy(update={"warm_models": settings.model})
    with Supervisor([api], tmp_path / "logs", said.append) as supervisor:
        supervisor.wait_until_ready()
        stack.show_sample(warm, supervisor, said.append)
    assert not [line for line in said if "loads the model" in line], "workers did at their start"
    assert f"The picture with its segments: {OVERLAY}" in said
    page = f"{stack.dagster_url(settings)}/assets/result?view=partitions&partition=sample-1"
    assert f"Its lineage in Dagster: {page}" in said


@pytest.mark.process
def test_a_sample_without_segments_has_no_overlay_to_show(
    tmp_path: Path, settings: Settings
) -> None:
    said: list[str] = []
    api = make_api(settings, tmp_path, status=400, answer=NOTHING)
    with Supervisor([api], tmp_path / "logs", said.append) as supervisor:
        supervisor.wait_until_ready()
        assert stack.show_sample(settings, supervisor, said.append).found == 0
    assert not any("The picture with its segments" in line for line in said)


@pytest.mark.process
def test_a_sample_that_fails_is_a_line_and_not_the_end(tmp_path: Path, settings: Settings) -> None:
    said: list[str] = []
    api = make_api(settings, tmp_path, status=507, answer=REFUSED)
    with Supervisor([api], tmp_path / "logs", said.append) as supervisor:
        supervisor.wait_until_ready()
        stack.try_sample(settings, supervisor, said.append)
        with pytest.raises(SupervisorError, match="the sample failed: The disk is full"):
            stack.check_sample(settings, supervisor, said.append)
    assert said == ["The sample failed: The disk is full."]


def test_an_api_that_is_not_there_is_told_from_one_that_refuses(settings: Settings) -> None:
    with pytest.raises(SampleFailed, match="did not answer"):
        send_sample(stack.base_url(settings), BUNDLED)
