"""The whole service as `make run` starts it, in a folder and on ports of its own. Tests, chaos
trials, benchmarks and `make demo-queue` start it so; `conftest.py` has the fixture."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from seg_pipeline.local.sample import BUNDLED, SampleFailed, SegmentedSample, ask, send_sample
from seg_pipeline.local.servers import free_port

PATIENCE_SECONDS = 180.0
PROFILES = ("embedded", "servers")
"""A folder and SQLite, as on a laptop; Redis, Postgres and two workers, as in production."""

_ENVIRONMENT_OF_TESTS = {"PATH", "HOME", "LANG", "TMPDIR", "SSL_CERT_FILE", "PYTHONPATH"}


def environment_of_tests() -> dict[str, str]:
    """The few variables of this process that the processes of tests inherit."""
    return {name: os.environ[name] for name in _ENVIRONMENT_OF_TESTS & os.environ.keys()}


class StackFailed(AssertionError):
    """The service did not come up, did not do what was waited for, or did not end as it should."""


class Stack:
    """A running service. Addresses have no slash at the end; `pid("worker")` and the like are as
    they are now.

    It inherits the few variables of this process that tests let through, unless others are given.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        profile: str = "embedded",
        inherited: Mapping[str, str] | None = None,
    ) -> None:
        self.profile = profile
        self.folder, self.data_dir = folder, folder / "data"
        api_port, dagster_port = free_ports(2)
        self.base_url, self.dagster_url = (
            f"http://127.0.0.1:{api_port}",
            f"http://127.0.0.1:{dagster_port}",
        )
        if inherited is None:
            inherited = environment_of_tests()
        ports = {"API_PORT": str(api_port), "DAGSTER_PORT": str(dagster_port)}
        self._environment = {**inherited, **ports, **(settings or {})}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.stop() != 0:
            raise StackFailed(self.output())

    def start(self) -> None:
        """Starts it and waits until it is ready; if it does not come up, it is ended."""
        seen = len(self.output())
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "seg_pipeline.cli", "up", "--no-sample", *self._options()],
                cwd=self.folder, env=self._environment, stdout=output, stderr=output,
            )  # fmt: skip
        try:
            self.wait_for(lambda: "Ctrl-C stops everything." in self.output()[seen:], "being up")
        except BaseException:
            self.process.terminate()
            self.process.wait(60)
            raise

    @property
    def is_up(self) -> bool:
        """Whether the process that was started still runs."""
        return self.process.poll() is None

    def _options(self) -> list[str]:
        return ["--servers"] if self.profile == "servers" else []

    def stop(self, number: int = signal.SIGINT) -> int:
        """Stops it, as Ctrl-C does, and checks that every process is gone; the exit code."""
        groups = set(self.pids().values())
        self.process.send_signal(number)
        try:
            code = self.process.wait(60)
        finally:
            self.process.kill()
        assert self._are_gone(groups), self.output()
        return code

    @staticmethod
    def _are_gone(groups: set[int], seconds: float = 10) -> bool:
        """Whether nothing of the groups is left soon: a killed orphan stays until the system takes
        leave of it."""
        give_up_at = time.monotonic() + seconds
        while any(has_processes(group) for group in groups):
            if time.monotonic() > give_up_at:
                return False
            time.sleep(0.05)
        return True

    def send_sample(self) -> SegmentedSample:
        """Sends the bundled picture and waits for its segments."""
        try:
            return send_sample(self.base_url, BUNDLED)
        except SampleFailed as error:
            raise AssertionError(f"{error}\n{self.output()}") from error

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        """What Dagster's UI is told when it asks so."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        url, headers = f"{self.dagster_url}/graphql", {"content-type": "application/json"}
        answer = ask("POST", url, body, headers).body
        assert "errors" not in answer, answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data

    def launch(
        self,
        job: str,
        config: Mapping[str, Any] | None = None,
        assets: Sequence[str] = (),
        partition: str | None = None,
    ) -> str:
        """What Dagster's launchpad sends for one of the jobs; the run's id."""
        query = """mutation($parameters: ExecutionParams!) {
            launchPipelineExecution(executionParams: $parameters) {
            __typename ... on LaunchRunSuccess { run { runId } }
            ... on PythonError { message } } }"""
        parameters = {
            "mode": "default",
            "selector": {
                "repositoryName": "__repository__",
                "repositoryLocationName": "seg_pipeline.definitions",
                "jobName": job,
                "assetSelection": [{"path": [name]} for name in assets] or None,
            },
            "runConfigData": json.dumps(config or {}),
            "executionMetadata": {
                "tags": [{"key": "dagster/partition", "value": partition}] if partition else []
            },
        }
        launched = self.graphql(query, parameters=parameters)["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def launch_prune(self) -> str:
        """A prune that removes nothing; the run's id."""
        return self.launch("prune", {"ops": {"pruned": {"config": {"dry_run": True}}}})

    def run_log(self, uuid: str) -> str:
        """What Dagster's UI shows of what the job's last run logged; empty if it shows nothing
        yet."""
        query = """query($filter: RunsFilter!) { runsOrError(filter: $filter, limit: 1) {
            ... on Runs { results { eventConnection { events {
            ... on LogsCapturedEvent { runId fileKey } } } } } } }"""
        tags = [{"key": "dagster/partition", "value": uuid}]
        (run,) = self.graphql(query, filter={"tags": tags})["runsOrError"]["results"]
        (captured,) = filter(None, run["eventConnection"]["events"])
        key = [captured["runId"], "compute_logs", captured["fileKey"]]
        query = "query($key: [String!]!) { capturedLogs(logKey: $key) { stderr } }"
        return self.graphql(query, key=key)["capturedLogs"]["stderr"] or ""

    def output(self) -> str:
        """What the user saw so far."""
        path = self.folder / "output"
        return path.read_text() if path.exists() else ""

    def log(self, name: str) -> str:
        """What a process printed since it was first started."""
        return (self.data_dir / "logs" / f"{name}.log").read_text(errors="replace")

    def pids(self) -> dict[str, int]:
        """api, code-server, daemon, webserver and worker, as far as they run; on servers also
        worker-2, redis and postgres."""
        files = (self.data_dir / "logs").glob("*.pid")
        return {path.stem: int(text) for path in files if (text := path.read_text())}

    def pid(self, name: str) -> int:
        """A process that should run; KeyError if it does not."""
        return self.pids()[name]

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Sends the process a signal; the pid it had. The supervisor starts another if it dies."""
        pid = self.pid(name)
        os.kill(pid, number)
        return pid

    def restart(self, name: str) -> None:
        """Kills the process outright and waits until everything is ready again."""
        old = self.kill(name)
        self.wait_for(lambda: self.pids().get(name, old) != old, f"another {name}")
        self.wait_for(self.is_ready, "being ready again")

    def is_ready(self) -> bool:
        """Whether the API says that jobs are accepted and worked on."""
        try:
            return ask("GET", f"{self.base_url}/readyz").status == 200
        except OSError:
            return False

    def wait_for(
        self, happened: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS
    ) -> None:
        """Returns when it happened; fails with the output if it does not, or if the service ends
        instead."""
        give_up_at = time.monotonic() + seconds
        while not happened():
            if self.process.poll() is not None:
                raise StackFailed(f"it ended before {what}:\n{self.output()}")
            if time.monotonic() >= give_up_at:
                raise StackFailed(f"no {what} within {seconds:g} s:\n{self.output()}")
            time.sleep(0.1)


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on now, all different."""
    ports: set[int] = set()
    while len(ports) < number:
        ports.add(free_port(ports))
    return [*ports]


def has_processes(group: int) -> bool:
    """Whether any process of this group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
