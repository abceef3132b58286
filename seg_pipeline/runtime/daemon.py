"""Dagster's daemon with faster loops. It takes the options of `dagster-daemon run`.

Upstream's loop of sensors pauses for five seconds, and a sensor's ticks are at least a second
apart. Our sensors wait for work within a tick, so either pause would add to the time to an answer.
Its loop of backfills pauses for half a minute, before it begins one and before it sees its end.
"""

from dagster._core.remote_representation.external import RemoteSensor
from dagster._core.scheduler.instigation import InstigatorState
from dagster._daemon import controller, sensor
from dagster._daemon.cli import run_command

from seg_pipeline.runtime.dagster_storage import plan_together
from seg_pipeline.runtime.literal_paths import take_paths_literally
from seg_pipeline.runtime.process_logs import take_over_logs

SENSOR_LOOP_SECONDS = 0.2
BACKFILL_LOOP_SECONDS = 5
WAITS_INSIDE = ("inbox_sensor", "courier", "webhooks")
"""Sensors whose next tick may begin as soon as the last one has ended and the loop has paused."""

_upstream_is_under_min_interval = sensor.is_under_min_interval


def main() -> None:
    """Runs the daemon until it is stopped."""
    take_over_logs("daemon")
    take_paths_literally()
    quicken()
    plan_together()
    run_command()


def quicken() -> None:
    """Replaces upstream's pauses by ours."""
    sensor.MIN_INTERVAL_LOOP_TIME = SENSOR_LOOP_SECONDS  # type: ignore[assignment]
    sensor.is_under_min_interval = is_under_min_interval
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = BACKFILL_LOOP_SECONDS


def is_under_min_interval(
    state: InstigatorState,
    remote_sensor: RemoteSensor,
    minimum_allowed_min_interval: int | None = None,
) -> bool:
    """Whether it is too early for a sensor's next tick."""
    if remote_sensor.name in WAITS_INSIDE:
        return False
    return _upstream_is_under_min_interval(state, remote_sensor, minimum_allowed_min_interval)


if __name__ == "__main__":
    main()
