"""A cancel reaches the process that executes the run, whenever it comes."""

import signal
from collections.abc import Iterator
from types import FrameType

import dagster as dg
import pytest

from seg_pipeline.runtime.execution import interrupt_if_cancelled


@pytest.fixture
def interrupts() -> Iterator[list[int]]:
    """Signals that this process would have been interrupted by."""
    seen: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        seen.append(number)

    former = signal.signal(signal.SIGINT, note)
    yield seen
    signal.signal(signal.SIGINT, former)


@dg.job
def nothing() -> None:
    """A job to make runs of."""


def test_a_run_that_nobody_cancelled_is_left_alone(interrupts: list[int]) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
        assert not interrupt_if_cancelled(instance, run.run_id)
        assert interrupts == []


@pytest.mark.parametrize("closed", [False, True])
def test_a_run_that_is_cancelled_in_the_moment_of_its_start_is_interrupted(
    interrupts: list[int], closed: bool
) -> None:
    """Its start is recorded after the cancel then, and hides it from who looks at the run's status
    alone."""
    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTING)
        instance.report_run_canceling(run)
        if closed:
            instance.report_run_canceled(run)
        started = dg.DagsterEvent(
            dg.DagsterEventType.RUN_START.value, nothing.name, message="It starts."
        )
        instance.report_dagster_event(started, run.run_id)
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.STARTED  # type: ignore[union-attr]
        assert interrupt_if_cancelled(instance, run.run_id)
        assert interrupts == [signal.SIGINT]


def test_a_run_that_ended_before_the_cancel_came_is_left_alone(interrupts: list[int]) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
        instance.report_run_canceling(run)
        ended = dg.DagsterEvent(
            dg.DagsterEventType.RUN_SUCCESS.value, nothing.name, message="It is done."
        )
        instance.report_dagster_event(ended, run.run_id)
        assert not interrupt_if_cancelled(instance, run.run_id)
        assert interrupts == []
