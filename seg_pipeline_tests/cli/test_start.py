"""Every process started by its name, with nothing else prepared, and what it says where something
is missing."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from seg_pipeline.local.sample import BUNDLED, ask, send_sample
from seg_pipeline_tests.running_stack import environment_of_tests, free_ports

pytestmark = pytest.mark.process

NAMES = ("api", "worker", "fetcher", "code-server", "daemon", "webserver")


def environment(folder: Path, **settings: str) -> dict[str, str]:
    """No DAGSTER_HOME, and ports of its own."""
    api, dagster, code = map(str, free_ports(3))
    own = {
        "API_PORT": api,
        "DAGSTER_PORT": dagster,
        "CODE_SERVER": f"127.0.0.1:{code}",
        "DATA_DIR": str(folder),
    }
    return {
        **environment_of_tests(),
        **own,
        "MODEL": "demo-yolo",
        "QUEUE_MODEL": "demo-yolo",
        **settings,
    }


def command(name: str) -> list[str]:
    return [sys.executable, "-m", "seg_pipeline.cli", name]


class Processes:
    """All of them, started at once and in no order, as containers are."""

    def __init__(self, settings: Mapping[str, str], log: Path) -> None:
        self.settings, self.log = settings, log
        self._exits = ExitStack()

    def __enter__(self) -> "Processes":
        output = self._exits.enter_context(self.log.open("wb"))
        for name in NAMES:
            process = subprocess.Popen(
                command(name), env=self.settings, stdout=output, stderr=output
            )
            self._exits.callback(_end, process)
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings['API_PORT']}"

    def wait_until_ready(self) -> None:
        give_up_at = time.monotonic() + 180
        while not self._is_ready():
            assert time.monotonic() < give_up_at, self.log.read_text(errors="replace")
            time.sleep(0.5)

    def _is_ready(self) -> bool:
        try:
            return ask("GET", f"{self.url}/readyz", timeout_seconds=5).status == 200
        except OSError:
            return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def servers(profile: str, request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The settings of the profile."""
    if profile == "embedded":
        yield {}
    else:
        postgres = request.getfixturevalue("postgres_server_url")
        yield {
            "BROKER_URL": f"{request.getfixturevalue('redis_url')}7",
            "DATABASE_URL": f"{postgres}postgres",
        }


@pytest.mark.slow
def test_processes_that_are_started_by_their_names_are_a_service(
    tmp_path: Path, servers: dict[str, str]
) -> None:
    settings = environment(tmp_path / "data", **servers)
    with Processes(settings, tmp_path / "log") as running:
        running.wait_until_ready()
        assert send_sample(running.url, BUNDLED).found > 0, running.log.read_text(errors="replace")


def started(name: str, settings: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """One that cannot start, to its end."""
    return subprocess.run(
        command(name), env=settings, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("worker", {"MODEL": "/nowhere/mine.pt"}, "the weights /nowhere/mine.pt are not there"),
        ("worker", {"DAGSTER_HOME": "/nowhere"}, "DAGSTER_HOME /nowhere has no dagster.yaml"),
        ("daemon", {"DATABASE_URL": "not an address"}, "DATABASE_URL is no database"),
        ("code-server", {"CODE_SERVER": "nothing"}, "CODE_SERVER"),
    ],
)
def test_what_is_missing_is_one_sentence(
    tmp_path: Path, name: str, settings: dict[str, str], sentence: str
) -> None:
    done = started(name, environment(tmp_path / "data", **settings))
    assert done.returncode == 1
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.slow
def test_a_worker_started_as_it_was_before_takes_dagsters_folder_from_the_data_folder(
    tmp_path: Path,
) -> None:
    """`python -m seg_pipeline.worker` without DAGSTER_HOME took runs and failed each."""
    settings = environment(tmp_path / "data")
    process = subprocess.Popen([sys.executable, "-m", "seg_pipeline.worker"], env=settings)
    try:
        give_up_at = time.monotonic() + 60
        while not [*(tmp_path / "data").glob("state/workers/*")]:
            assert process.poll() is None
            assert time.monotonic() < give_up_at
            time.sleep(0.2)
        assert (tmp_path / "data" / "dagster" / "dagster.yaml").is_file()
    finally:
        _end(process)
