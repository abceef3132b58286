"""The whole product, started as `make run` does, in a folder of its own and on free ports."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from seg_pipeline.settings import Settings
from seg_pipeline.stack import free_port

UP_WITHIN_SECONDS = 180


@dataclass(frozen=True)
class RunningStack:
    """Where to reach it."""

    url: str
    settings: Settings
    pid: int


@contextmanager
def running_stack(folder: Path, model: str) -> Iterator[RunningStack]:
    """Runs it while inside; raises if it does not come up."""
    folder.mkdir(parents=True, exist_ok=True)
    api_port, dagster_port = free_port(), free_port()
    names = {"DATA_DIR": str(folder / "data"), "MODEL": model, "QUEUE_MODEL": model, "WAIT_SECONDS": "120"}
    ports = {"API_PORT": str(api_port), "DAGSTER_PORT": str(dagster_port)}
    command = [sys.executable, "-m", "seg_pipeline.cli", "up", "--no-sample"]
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **names, **ports}, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{api_port}"
            _wait_until_ready(url, process, folder / "up.log")
            settings = Settings(_env_file=None, data_dir=folder / "data", model=model)  # type: ignore[call-arg]
            yield RunningStack(url, settings, process.pid)
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + UP_WITHIN_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if "Everything is up" in log.read_text():
            httpx.get(f"{url}/readyz").raise_for_status()
            return
        time.sleep(0.2)
    raise SystemExit(f"the stack did not come up:\n{log.read_text()}")
