"""When the sensor takes what waits, and how it shares it out."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg_pipeline.defs import sensors
from seg_pipeline.defs.batching import (
    FailedRunPace,
    RunUnderWay,
    room_for_runs,
    runs_to_give_way,
    size_for_batches,
    split_into_batches,
)
from seg_pipeline.domain import Lane
from seg_pipeline.jobs.claims import Waiting
from seg_pipeline_tests.builders import make_context

SINGLE, QUEUE, BATCH = Lane


@pytest.mark.parametrize(
    ("in_progress", "workers", "room"),
    [(0, 1, 2), (1, 1, 1), (2, 1, 0), (9, 1, 0), (3, 2, 1), (1, 0, 1)],
)
def test_a_worker_gets_a_run_to_execute_and_one_to_wait(
    in_progress: int, workers: int, room: int
) -> None:
    assert room_for_runs(in_progress, workers) == room


@given(st.integers(0, 300), st.integers(0, 9), st.integers(1, 64))
def test_batches_hold_every_job_once_and_in_order(jobs: int, workers: int, batch_size: int) -> None:
    uuids = [f"job-{index}" for index in range(jobs)]
    batches = split_into_batches(uuids, workers, batch_size)
    assert [uuid for batch in batches for uuid in batch] == uuids
    assert all(0 < len(batch) <= batch_size for batch in batches)


def test_jobs_are_shared_evenly_over_the_workers() -> None:
    assert [len(batch) for batch in split_into_batches(["job"] * 40, workers=2, batch_size=32)] == [
        20,
        20,
    ]


def test_runs_are_full_while_many_wait_even_if_one_worker_alone_has_room() -> None:
    """With six workers runs once had six jobs of four hundred, and each run costs the daemon."""
    (run,) = split_into_batches(["job"] * 32, workers=6, batch_size=32, waiting=400)
    assert len(run) == 32
    few = split_into_batches(["job"] * 12, workers=6, batch_size=32, waiting=12)
    assert [len(batch) for batch in few] == [2] * 6


def test_a_tick_sizes_its_runs_by_all_that_waits(tmp_path: Path) -> None:
    jobs = [f"job-{number}" for number in range(400)]
    waiting = Waiting(jobs, [], dict.fromkeys(jobs, SINGLE))
    runs = sensors._split(make_context(tmp_path), waiting, [under_way(SINGLE)] * 10, workers=6)
    assert [run.uuids for run in runs] == [jobs[:32], jobs[32:64]]


def under_way(lane: Lane, run_id: str = "", *, executing: bool = False) -> RunUnderWay:
    return RunUnderWay(run_id, lane, executing)


def test_runs_of_later_lanes_take_no_room_from_earlier_ones(tmp_path: Path) -> None:
    lanes = {"single": SINGLE, "queue": QUEUE, "batch-b-000000": BATCH}
    waiting = Waiting([*lanes], [], lanes)

    def asked(*lanes: Lane) -> list[Lane]:
        runs = [under_way(lane) for lane in lanes]
        return [
            run.lane for run in sensors._split(make_context(tmp_path), waiting, runs, workers=1)
        ]

    assert asked() == [SINGLE, QUEUE]
    assert asked(BATCH, BATCH) == [SINGLE, QUEUE]
    assert asked(QUEUE, QUEUE, BATCH, BATCH) == [SINGLE]
    assert asked(SINGLE, SINGLE) == []


@pytest.mark.parametrize(
    ("wanted", "waiting", "executing", "workers", "asked"),
    [
        ([SINGLE], [], [BATCH], 1, ["run-0"]),
        ([SINGLE], [BATCH], [BATCH], 1, ["run-0"]),
        ([], [SINGLE], [BATCH], 1, ["run-0"]),
        ([QUEUE], [], [BATCH], 1, ["run-0"]),
        ([SINGLE], [], [BATCH], 2, []),
        ([SINGLE], [], [SINGLE], 1, []),
        ([BATCH], [], [SINGLE], 1, []),
        ([BATCH], [BATCH], [BATCH], 1, []),
        ([SINGLE], [], [SINGLE, QUEUE, BATCH], 3, ["run-2"]),
        ([SINGLE, SINGLE], [], [SINGLE, QUEUE, BATCH], 3, ["run-2", "run-1"]),
        ([SINGLE], [], [], 0, []),
    ],
)
def test_as_many_runs_give_way_as_no_worker_is_idle_for(
    wanted: list[Lane], waiting: list[Lane], executing: list[Lane], workers: int, asked: list[str]
) -> None:
    runs = [under_way(lane, "waits") for lane in waiting]
    for number, lane in enumerate(executing):
        runs.append(under_way(lane, f"run-{number}", executing=True))
    assert runs_to_give_way(wanted, runs, workers) == asked


def test_a_backfill_is_not_asked_in_place_of_a_run_that_can_give_way() -> None:
    backfill = RunUnderWay("backfill", BATCH, True, may_give_way=False)
    assert runs_to_give_way([SINGLE], [backfill], 1) == []
    runs = [backfill, under_way(BATCH, "batch", executing=True)]
    assert runs_to_give_way([SINGLE], runs, 2) == ["batch"]


class TestFailedRunPace:
    def test_when_nobody_else_waits_such_runs_follow_one_another(self) -> None:
        pace = FailedRunPace()
        assert pace.allows(0)
        pace.note_asked(0)
        assert pace.allows(0)

    def test_beside_pictures_there_is_a_pause_between_two(self) -> None:
        pace = FailedRunPace()
        pace.note_ready(100)
        assert pace.allows(100)
        pace.note_asked(100)
        assert not pace.allows(100.9)
        assert pace.allows(101)

    def test_a_while_after_the_last_picture_it_is_quiet_again(self) -> None:
        pace = FailedRunPace()
        pace.note_ready(100)
        pace.note_asked(109.5)
        assert not pace.allows(109.9)
        assert pace.allows(110)


@pytest.mark.parametrize(
    ("picture_seconds", "size"), [(None, 16), (0.0, 32), (0.02, 32), (2, 20), (30, 1), (60, 1)]
)
def test_a_run_of_a_clients_batch_lasts_some_seconds(
    picture_seconds: float | None, size: int
) -> None:
    assert size_for_batches(picture_seconds, 32) == size


def test_it_has_no_more_pictures_than_any_run() -> None:
    assert size_for_batches(None, 4) == 4
    assert size_for_batches(0.001, 4) == 4
