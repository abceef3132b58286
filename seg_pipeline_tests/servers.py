"""The servers of production for tests, each on a free port and in a folder of its own;
`conftest.py` has fixtures."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from seg_pipeline.local.servers import listens, postgres_programs
from seg_pipeline_tests.running_stack import free_ports


def missing(what: str) -> NoReturn:
    """Skips the test because a server is not installed; under CI, which installs it, that is a
    failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is not installed, though .ci/run should have installed it")
    pytest.skip(f"{what} is not installed")


def require_servers() -> None:
    """Skips the test where `make run-servers` would refuse to start."""
    if shutil.which("redis-server") is None:
        missing("redis-server")
    if postgres_programs() is None:
        missing("Postgres (initdb is neither on PATH nor in /usr/lib/postgresql)")


@contextmanager
def redis_server() -> Iterator[str]:
    """The URL of a Redis of its own, up to the database's number."""
    program = shutil.which("redis-server")
    if program is None:
        missing("redis-server")
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="seg-redis-") as folder:
        command = [
            program,
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            folder,
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            _wait_until_it_listens(port)
            yield f"redis://127.0.0.1:{port}/"
            server.terminate()


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of a Postgres of its own, up to the database's name."""
    programs = postgres_programs()
    if programs is None:
        missing("Postgres (initdb is neither on PATH nor in /usr/lib/postgresql)")
    with tempfile.TemporaryDirectory(prefix="seg-postgres-") as name:
        folder = Path(name)
        user = {"user": "nobody"} if os.geteuid() == 0 else {}  # Postgres refuses to run as root
        if user:
            shutil.chown(folder, "nobody")
        (port,) = free_ports(1)
        data, log = folder / "data", folder / "log"
        control = [programs / "pg_ctl", "-D", data, "-w", "-t", "120", "-l", log]
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        _run(
            [programs / "initdb", "-D", data, "-U", "dagster", "--auth=trust", "--no-sync"], **user
        )
        _run([*control, "-o", options, "start"], **user)
        yield f"postgresql://dagster@127.0.0.1:{port}/"
        _run([*control, "-m", "immediate", "stop"], **user)


def _wait_until_it_listens(port: int) -> None:
    give_up_at = time.monotonic() + 30
    while not listens("127.0.0.1", port):
        assert time.monotonic() < give_up_at, f"nothing listens on port {port}"
        time.sleep(0.05)


def _run(command: Sequence[object], **options: Any) -> None:
    """Runs it; its output is in the failure. pg_ctl's server keeps the streams open, so they go to
    a file."""
    with tempfile.TemporaryFile() as output:
        code = subprocess.run(
            [str(word) for word in command], stdout=output, stderr=output, check=False, **options
        ).returncode
        output.seek(0)
        assert code == 0, output.read().decode()
