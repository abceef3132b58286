"""`seg-pipeline worker` and the like: one process of the service, for any supervisor to start."""

from typing import Annotated

import typer

from seg_pipeline.local.processes import (
    CodeServer,
    become,
    environment_of,
    processes,
    write_dagster_home,
    write_workspace,
)
from seg_pipeline.settings import Settings

ABOUT = {
    "api": "Start the API, which accepts jobs, answers and serves the files.",
    "worker": "Start a worker, which executes runs, one at a time, with the models in memory.",
    "fetcher": "Start a fetcher, which brings the pictures that jobs name by their addresses.",
    "daemon": "Start Dagster's daemon, which asks for ticks and launches runs. Never start two.",
    "webserver": "Start the Dagster UI.",
}

ListenOn = Annotated[
    str, typer.Option("--host", help="Address to listen on; 0.0.0.0 in a container.")
]


def start(name: str, settings: Settings, listen_on: str = "127.0.0.1") -> None:
    """Turns this process into the one of that name, once what it needs is ready.

    Raises SupervisorError.
    """
    host, _, port = settings.code_server.rpartition(":")
    code = CodeServer(host, int(port))
    workspace = write_workspace(write_dagster_home(settings), code, "workspace-of-one.yaml")
    become(name, processes(settings, code, workspace, listen_on)[name], environment_of(settings))
