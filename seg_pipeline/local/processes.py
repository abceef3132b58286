"""The processes of the service by name: their commands, and what they need before they start.

`stack.py` starts all of them on one machine. `seg-pipeline worker` and the like start one, as the
containers do.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seg_pipeline.local.supervisor import SupervisorError
from seg_pipeline.settings import Settings

LOCATION_NAME = "seg_pipeline.definitions"
"""Dagster's name for our code. It keeps the states of sensors and schedules under this name."""

PROJECT = Path(__file__).parents[2]
TICK_THREADS = "16"
"""Threads of the code server. Sensors' ticks wait in them, and the default is few."""


@dataclass(frozen=True)
class CodeServer:
    """Where the process with our definitions listens, as its clients see it."""

    host: str
    port: int


@dataclass(frozen=True)
class Process:
    """How a process is started: its module and arguments, and what it needs before."""

    module: str
    arguments: Sequence[str] = ()
    needs: Sequence[str] = ()

    @property
    def command(self) -> list[str]:
        """The command to execute on this machine."""
        return [sys.executable, "-m", self.module, *self.arguments]


def processes(
    settings: Settings, code: CodeServer, workspace: Path, listen_on: str = "127.0.0.1"
) -> dict[str, Process]:
    """Every long-running process, by name.

    The code server listens on the address `listen_on`. Daemon and UI find it by the file
    `workspace` (see `write_workspace`).
    """
    grpc = ["--module-name", LOCATION_NAME, "--host", listen_on, "--port", str(code.port)]
    web = [
        "--host",
        settings.dagster_host,
        "--port",
        str(settings.dagster_port),
        "--workspace",
        str(workspace),
    ]
    return {
        "api": Process("api.main", (), ("store",)),
        "worker": Process(
            "seg_pipeline.runtime.worker", (), ("tables", "broker", "store", "weights")
        ),
        "fetcher": Process("seg_pipeline.adapters.fetcher", (), ("store",)),
        "code-server": Process(
            "seg_pipeline.runtime.code_server",
            [*grpc, "-n", TICK_THREADS],
            ("tables", "broker", "store"),
        ),
        "webserver": Process("seg_pipeline.runtime.webserver", web, ("tables",)),
        "daemon": Process(
            "seg_pipeline.runtime.daemon", ["--workspace", str(workspace)], ("tables", "broker")
        ),
    }


def write_dagster_home(settings: Settings) -> Path:
    """Writes Dagster's folder with its configuration. Returns its absolute path."""
    home = settings.data_dir.absolute() / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    _replace(home / "dagster.yaml", (PROJECT / "dagster.yaml").read_bytes())
    return home


def write_workspace(home: Path, code: CodeServer, name: str = "workspace.yaml") -> Path:
    """Writes the file that tells daemon and UI where the code server is."""
    server = {"host": code.host, "port": code.port, "location_name": LOCATION_NAME}
    path = home / name
    _replace(path, json.dumps({"load_from": [{"grpc_server": server}]}).encode())
    return path


def become(name: str, process: Process, environment: Mapping[str, str]) -> None:
    """Prepares what the process needs, then turns this process into it.

    Raises SupervisorError with a sentence about what is missing.
    """
    if process.needs:
        prepare = [sys.executable, "-m", "seg_pipeline.runtime.preparation", *process.needs]
        done = subprocess.run(
            prepare, env=dict(environment), stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["it could not be made ready"])[-1]
            raise SupervisorError(f"the {name} cannot start: {last}")
    os.execve(sys.executable, process.command, dict(environment))


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment of a process: our own, the settings in force, and a DAGSTER_HOME."""
    environment = {
        "DAGSTER_HOME": str(settings.data_dir.absolute() / "dagster"),
        **os.environ,
        **_without_proxy(os.environ),
        **_changed(settings),
        "PYTHONUNBUFFERED": "1",
    }
    # Without compiled files every start takes twice as long.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def _without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """Lets the processes reach one another directly, whatever proxy this machine uses.

    gRPC reads these variables too.
    """
    names = {
        "NO_PROXY": environment.get("NO_PROXY", ""),
        "no_proxy": environment.get("no_proxy", ""),
    }
    return {
        name: ",".join(filter(None, [hosts, "localhost", "127.0.0.1", "::1"]))
        for name, hosts in names.items()
    }


def _changed(settings: Settings) -> dict[str, str]:
    """The settings that the children could not read from the environment and `.env` themselves."""
    names = ("model", "queue_model", "api_host", "api_port", "dagster_host", "dagster_port")
    servers = [name for name in ("broker_url", "database_url") if getattr(settings, name)]
    paths = {
        "DATA_DIR": str(settings.data_dir.absolute()),
        "WEIGHTS_DIR": str(settings.weights_dir.absolute()),
    }
    return {name.upper(): str(getattr(settings, name)) for name in (*names, *servers)} | paths


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """The cores that this process may use.

    It respects a container's limit (cgroup v2), which torch does not see.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    with contextlib.suppress(OSError, ValueError):
        share, period = quota.read_text().split()
        cores = min(cores, max(1, round(int(share) / int(period))))
    return cores


def _replace(path: Path, data: bytes) -> None:
    """Writes the file atomically: several processes may write the same at once."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(data)
    unfinished.replace(path)
