"""Dagster's daemon with a quicker sensor loop, which takes the options of `dagster-daemon run`.

The loop's pause of five seconds is a constant upstream, and a second the shortest time between two
ticks of a sensor. Between two ticks of ours, which wait for work inside, either would be added to
the time to an answer.
"""

from dagster._core.remote_representation.external import RemoteSensor
from dagster._core.scheduler.instigation import InstigatorState
from dagster._daemon import sensor
from dagster._daemon.cli import run_command

from seg_pipeline.runtime.dagster_storage import plan_together
from seg_pipeline.runtime.literal_paths import take_paths_literally
from seg_pipeline.runtime.process_logs import take_over_logs

SENSOR_LOOP_SECONDS = 0.2
WAITS_INSIDE = ("inbox_sensor", "courier")
"""Sensors whose next tick may begin as soon as the last one has ended; the loop's pause lies
between all the same."""

_upstream_is_under_min_interval = sensor.is_under_min_interval


def main() -> None:
    """Runs the daemon until it is stopped."""
    take_over_logs("daemon")
    take_paths_literally()
    quicken()
    plan_together()
    run_command()


def quicken() -> None:
    """Puts our pauses in the place of upstream's."""
    sensor.MIN_INTERVAL_LOOP_TIME = SENSOR_LOOP_SECONDS  # type: ignore[assignment]
    sensor.is_under_min_interval = is_under_min_interval


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
