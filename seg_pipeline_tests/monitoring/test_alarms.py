"""When an alarm begins, when it ends, and how often it is said."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from seg_pipeline.jobs.drain import Drain
from seg_pipeline.monitoring.alarms import (
    CHECKS,
    PRUNE_LATE_AFTER,
    REPEATED_AFTER,
    AlarmMemory,
    AlarmVerdict,
    judge,
)
from seg_pipeline.monitoring.service_state import (
    AppServerState,
    PruneState,
    QueueState,
    ServiceState,
    read_service_state,
)
from seg_pipeline.settings import Settings
from seg_pipeline.store import Store, keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline_tests.builders import NOON
from seg_pipeline_tests.conftest import make_settings

QUIET = read_service_state(ObjectStore.in_memory(), 15, NOON)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Those by default."""
    return make_settings(tmp_path, oldest_job_seconds=600)


def failing(state: ServiceState, settings: Settings) -> list[str]:
    """The names of the alarms that are on."""
    return [verdict.name for verdict in judge(state, settings) if not verdict.passed]


def test_a_quiet_service_has_no_alarm(settings: Settings) -> None:
    assert failing(QUIET, settings) == []


@pytest.mark.parametrize(
    ("trouble", "alarm"),
    [
        ({"parked_messages": 1}, "nothing_parked"),
        ({"parked_callbacks": 1}, "nothing_parked"),
        ({"app_server": AppServerState(NOON, "it hangs")}, "app_server_answers"),
        ({"waiting": QueueState(1, 601)}, "oldest_job_is_young"),
        ({"in_flight": QueueState(1, 601)}, "oldest_job_is_young"),
        ({"prune": PruneState(NOON - PRUNE_LATE_AFTER - timedelta(seconds=1))}, "prune_is_on_time"),
        ({"prune": PruneState(NOON, failures=1)}, "prune_is_on_time"),
        ({"drain": Drain(NOON, NOON + timedelta(minutes=1))}, "not_drained"),
    ],
)
def test_each_trouble_has_its_alarm(
    trouble: dict[str, Any], alarm: str, settings: Settings
) -> None:
    assert failing(replace(QUIET, **trouble), settings) == [alarm]


@pytest.mark.parametrize(
    "well",
    [
        {"waiting": QueueState(9, 600)},
        {"prune": PruneState(NOON - PRUNE_LATE_AFTER)},
        {"workers": 0},
    ],
)
def test_what_is_within_its_limit_is_no_alarm(well: dict[str, Any], settings: Settings) -> None:
    assert failing(replace(QUIET, **well), settings) == []


def test_every_verdict_has_the_name_of_its_check(settings: Settings) -> None:
    assert [verdict.name for verdict in judge(QUIET, settings)] == list(CHECKS)


def test_an_alarm_is_said_when_it_begins_and_when_it_ends(store: Store) -> None:
    """Once each, whichever process looks."""
    said = []
    for minute, passed in enumerate([True, False, False, True, True]):
        memory, now = AlarmMemory.read(store), NOON + timedelta(minutes=minute)
        verdict = AlarmVerdict("nothing_parked", passed, "Something.", {})
        said.append(memory.take(verdict, now) if memory.is_due(verdict, now) else None)
        memory.write(store)
    assert [change and change.begins for change in said] == [None, True, None, False, None]
    assert said[3]
    assert said[3].line == "nothing_parked is well again after 120 s. Something."


def test_a_verdict_that_stands_still_is_reported_every_hour() -> None:
    memory, verdict = AlarmMemory(), AlarmVerdict("nothing_parked", True, "", {})
    assert memory.is_due(verdict, NOON)
    memory.take(verdict, NOON)
    assert not memory.is_due(verdict, NOON + REPEATED_AFTER)
    assert memory.is_due(verdict, NOON + REPEATED_AFTER + timedelta(seconds=1))


def test_a_memory_that_a_power_cut_left_empty_begins_anew(store: Store) -> None:
    store.put(keys.ALARMS_STATE, b"")
    assert AlarmMemory.read(store) == AlarmMemory()
