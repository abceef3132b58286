"""What the quicker daemon relies on inside Dagster: a new release that changes it must be noticed
here."""

import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from dagster._daemon import backfill, controller, sensor

from seg_pipeline.definitions import defs
from seg_pipeline.runtime import daemon


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leaves Dagster as it was."""
    before = sensor.MIN_INTERVAL_LOOP_TIME, sensor.is_under_min_interval
    pause = controller.DEFAULT_DAEMON_INTERVAL_SECONDS
    yield
    sensor.MIN_INTERVAL_LOOP_TIME, sensor.is_under_min_interval = before
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = pause


def test_upstreams_loop_asks_for_both() -> None:
    assert "MIN_INTERVAL_LOOP_TIME" in inspect.getsource(sensor.execute_sensor_iteration_loop)
    assert "is_under_min_interval(sensor_state, sensor)" in inspect.getsource(
        sensor.execute_sensor_iteration
    )
    parameters = list(inspect.signature(daemon._upstream_is_under_min_interval).parameters)
    assert parameters == list(inspect.signature(daemon.is_under_min_interval).parameters)


def test_the_loop_of_backfills_pauses_for_seconds() -> None:
    """It reads its pause when it begins. Else the daemon of automation conditions alone does, of
    which our assets have none."""
    loop = inspect.getsource(backfill.execute_backfill_iteration_loop)
    name = "DEFAULT_DAEMON_INTERVAL_SECONDS"
    assert f"from dagster._daemon.controller import {name}" in loop
    assert inspect.getsource(controller).count(name) == 2
    assert not any(spec.automation_condition for spec in defs.resolve_all_asset_specs())
    daemon.quicken()
    assert controller.DEFAULT_DAEMON_INTERVAL_SECONDS == daemon.BACKFILL_LOOP_SECONDS


def test_a_sensor_that_waits_inside_may_tick_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "_upstream_is_under_min_interval", lambda *_: True)
    daemon.quicken()
    inbox, courier, other = (
        cast(Any, SimpleNamespace(name=name)) for name in ("inbox_sensor", "courier", "sweeper")
    )
    assert not sensor.is_under_min_interval(cast(Any, None), inbox)
    assert not sensor.is_under_min_interval(cast(Any, None), courier)
    assert sensor.is_under_min_interval(cast(Any, None), other)
    assert sensor.MIN_INTERVAL_LOOP_TIME == daemon.SENSOR_LOOP_SECONDS


def test_the_sensors_that_wait_inside_exist() -> None:
    assert set(daemon.WAITS_INSIDE) <= {each.name for each in defs.get_repository_def().sensor_defs}
