"""The code server: `python -m seg_pipeline.runtime.code_server`.

It takes the options of `dagster api grpc`. It holds our definitions, evaluates the sensors and
reports their metrics.
"""

from seg_pipeline.defs.resources import shared_stage_context
from seg_pipeline.runtime.literal_paths import take_paths_literally
from seg_pipeline.runtime.process_logs import take_over_logs
from seg_pipeline.settings import get_settings
from seg_pipeline.telemetry.snapshots import start_reporter


def main() -> None:
    """Serves until it is stopped."""
    from dagster._cli.api import grpc_command

    take_paths_literally()
    take_over_logs("code-server")
    start_reporter(shared_stage_context().store, "code-server", get_settings().heartbeat_seconds)
    grpc_command()


if __name__ == "__main__":
    main()
