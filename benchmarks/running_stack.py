"""The whole product, started as `make run` does, in a folder of its own and on free ports."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.beside import beside
from seg_pipeline.jobs.heartbeats import live_workers
from seg_pipeline.local.servers import with_servers
from seg_pipeline.local.supervisor import Supervisor
from seg_pipeline.settings import Settings
from seg_pipeline.store import open_store
from seg_pipeline_tests.running_stack import Stack


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
    folder: Path, model: str, profile: str = "embedded", **settings: Any
) -> Iterator[RunningStack]:
    """Runs it with these settings while inside; raises StackFailed if it does not come up."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = {
        "data_dir": folder.absolute() / "data", "model": model, "queue_model": model,
        "wait_seconds": 120, "weights_dir": Settings(_env_file=None).weights_dir.absolute(),
        **settings,
    }  # fmt: skip
    names = {name.upper(): str(value) for name, value in asked.items()}
    with Stack(folder.absolute(), names, profile, os.environ) as stack:
        yield RunningStack(stack.base_url, Settings(_env_file=None, **asked), stack.process.pid)


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


def _looked_after(supervisor: Supervisor) -> AbstractContextManager[None]:
    """Nobody reads what the programs print unless the supervisor ticks."""
    return beside(lambda is_over: supervisor.run_until(is_over.is_set), "servers")
