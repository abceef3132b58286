"""Dagster's UI behind a guard: `python -m seg_pipeline.runtime.webserver`.

It takes the options of `dagster-webserver`. By default it listens at DAGSTER_HOST and DAGSTER_PORT.
`ui_guard.py` decides what may reach it.
"""

from typing import Any

import uvicorn
from dagster._core.workspace.context import IWorkspaceProcessContext
from dagster_webserver import cli
from dagster_webserver.app import create_app_from_workspace_process_context

from seg_pipeline.runtime.dagster_storage import plan_together
from seg_pipeline.runtime.literal_paths import take_paths_literally
from seg_pipeline.runtime.process_logs import take_over_logs
from seg_pipeline.runtime.ui_guard import UiGuard, UiRules
from seg_pipeline.settings import get_settings


def main() -> None:
    """Runs the UI until it is stopped: upstream's command, with our `serve` as its server."""
    take_over_logs("webserver")
    settings = get_settings()
    take_paths_literally()
    plan_together()
    cli.host_dagster_ui_with_workspace_process_context = serve
    defaults = {"host": settings.dagster_host, "port": settings.dagster_port}
    cli.dagster_webserver(auto_envvar_prefix="DAGSTER_WEBSERVER", default_map=defaults)


def serve(
    workspace_process_context: IWorkspaceProcessContext[Any],
    host: str | None,
    port: int | None,
    path_prefix: str,
    log_level: str,
    live_data_poll_rate: int | None = None,
) -> None:
    """Serves the UI.

    Headers that proxies set are not believed: the guard checks the connection's own address.
    """
    app = create_app_from_workspace_process_context(
        workspace_process_context, path_prefix, live_data_poll_rate, lifespan=cli._lifespan
    )
    settings = get_settings()
    host, port = host or settings.dagster_host, port or settings.dagster_port
    guarded = UiGuard(app, UiRules.of(settings, host))
    uvicorn.run(
        guarded,
        host=host,
        port=port,
        log_config=None,
        log_level=log_level,
        proxy_headers=False,
        server_header=False,
    )


if __name__ == "__main__":
    main()
