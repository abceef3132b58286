"""A short trial in every run of the tests; `make chaos` has the long ones."""

from pathlib import Path

import pytest

from seg_pipeline_tests.chaos.faults import Schedule, plan
from seg_pipeline_tests.chaos.trial import Trial, conduct


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_is_lost_whatever_is_killed_or_taken_away(tmp_path: Path, profile: str) -> None:
    schedule = Schedule(seed=1, kills=10, seconds=36, away_seconds=4)
    trial = Trial(profile, jobs=30, schedule=schedule, settle_seconds=240)
    outcome = conduct(trial, tmp_path)
    assert outcome.wrong == []
    assert outcome.statuses == {"completed": 30}


def test_a_plan_is_the_same_for_the_same_seed_and_takes_everybody_in_turn() -> None:
    names = ["api", "worker", "daemon"]
    schedule = Schedule(seed=7, kills=9, seconds=60, away_seconds=5)
    faults = plan(schedule, names, ["disk full"])
    assert faults == plan(schedule, names, ["disk full"])
    killed = [fault.name for fault in faults if not fault.seconds]
    assert sorted(killed) == sorted([f"kill {name}" for name in names] * 3)
    assert [fault.seconds for fault in faults if fault.name == "disk full"] == [5]
