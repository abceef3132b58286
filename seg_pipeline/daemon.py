"""Dagster's daemon with a quicker sensor loop: `python -m seg_pipeline.daemon` takes `dagster-daemon run`'s options.

The loop's pause of five seconds is a constant upstream; between two of our ticks, which wait for work inside, it would
be the time to an answer.
"""

from dagster._daemon import sensor
from dagster._daemon.cli import run_command

SENSOR_LOOP_SECONDS = 0.2


def main() -> None:
    """Runs the daemon until it is stopped."""
    sensor.MIN_INTERVAL_LOOP_TIME = SENSOR_LOOP_SECONDS  # type: ignore[assignment]
    run_command()


if __name__ == "__main__":
    main()
