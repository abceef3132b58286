"""The whole product, started as `make run` does, in a folder of its own and on free ports."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from seg_pipeline.jobs.heartbeats import live_workers
from seg_pipeline.local.servers import free_port, with_servers
from seg_pipeline.local.supervisor import Supervisor
from seg_pipeline.settings import Settings
from seg_pipeline.store import open_store

UP_WITHIN_SECONDS = 180


@dataclass(frozen=True)
class RunningStack:
    """Where to reach it."""

    url: str
    settings: Settings
    pid: int

    def processes(self) -> list[psutil.Process]:
        """The supervisor and all below it."""
        supervisor = psutil.Process(self.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """What all of them have used so far, in user and system mode, those included that have
        ended."""
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(
                    process.cpu_times()[:4]
                )  # user, system, and the same of ended children
        return total

    def worker(self) -> psutil.Process:
        """The process that executes runs and holds the models."""
        (beat,) = live_workers(open_store(self.settings))
        return psutil.Process(beat.pid)

    def has_finished(self, uuid: str) -> bool:
        """Whether this job has ended well."""
        return (self._done / uuid).exists()

    def finished_count(self) -> int:
        """How many jobs have ended well."""
        return len(os.listdir(self._done)) if self._done.exists() else 0

    @property
    def _done(self) -> Path:
        return self.settings.data_dir / "state" / "done" / "completed"


@contextmanager
def running_stack(
    folder: Path, model: str, arguments: Sequence[str] = (), **settings: object
) -> Iterator[RunningStack]:
    """Runs it with these settings while inside, `--servers` among the arguments on Redis and
    Postgres; raises SystemExit if it does not come up."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = {
        "data_dir": folder / "data", "model": model, "queue_model": model, "wait_seconds": 120,
        "api_port": free_port(), "dagster_port": free_port(), **settings,
    }  # fmt: skip
    names = {name.upper(): str(value) for name, value in asked.items()}
    command = [sys.executable, "-m", "seg_pipeline.cli", "up", "--no-sample", *arguments]
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **names}, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{asked['api_port']}"
            _wait_until_ready(url, process, folder / "up.log")
            yield RunningStack(url, _settings(asked), process.pid)
        finally:
            process.terminate()
            process.wait(timeout=60)


@contextmanager
def running_servers(folder: Path) -> Iterator[dict[str, str]]:
    """A Redis and a Postgres of this machine, without the service; the variables that lead
    there."""
    data = folder.absolute() / "data"
    servers = with_servers(Settings(_env_file=None, data_dir=data))
    with Supervisor(servers.programs, data / "logs") as supervisor:
        supervisor.wait_until_ready()
        with _looked_after(supervisor):
            yield {
                name.upper(): str(getattr(servers.settings, name))
                for name in ("broker_url", "database_url")
            }


@contextmanager
def _looked_after(supervisor: Supervisor) -> Iterator[None]:
    """Nobody reads what the programs print unless the supervisor ticks."""
    is_over = threading.Event()
    thread = threading.Thread(
        target=lambda: supervisor.run_until(is_over.is_set), name="servers", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _settings(asked: Mapping[str, object]) -> Settings:
    return Settings(_env_file=None, **asked)  # type: ignore[arg-type]


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + UP_WITHIN_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if "Everything is up" in log.read_text():
            httpx.get(f"{url}/readyz").raise_for_status()
            return
        time.sleep(0.2)
    raise SystemExit(f"the stack did not come up:\n{log.read_text()}")
