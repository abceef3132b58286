"""Executes a launched run in this process, and stops it when an operator cancels it."""

import os
import signal

from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus

CANCELLED = (DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED)


def execute(instance: DagsterInstance, run_id: str) -> None:
    """Executes the run until it ends, whatever its outcome.

    Call it from the main thread: no other thread can be interrupted.
    """
    from dagster._cli.api import _execute_run_command_body

    terminate = signal.getsignal(signal.SIGTERM)
    try:
        _execute_run_command_body(
            run_id, instance, lambda _event: None, set_exit_code_on_failure=True
        )
    finally:
        signal.signal(signal.SIGTERM, terminate)  # Dagster leaves SIGINT's handler there


def why_it_failed(instance: DagsterInstance, run_id: str) -> str | None:
    """The first line of the run's error; None if it did not fail."""
    records = instance.get_records_for_run(
        run_id, of_type=DagsterEventType.RUN_FAILURE, limit=1
    ).records
    event = records[0].event_log_entry.dagster_event if records else None
    if event is None:
        return None
    error = event.job_failure_data.error
    while error and error.cause:
        error = error.cause
    return first_line(error.message if error else event.message)


def first_line(text: object) -> str:
    """An error's first line, of at most 300 characters."""
    return next(iter(str(text).strip().splitlines()), "no message")[:300]


def interrupt_if_cancelled(instance: DagsterInstance, run_id: str) -> bool:
    """Interrupts the run if it was cancelled. Returns whether it was."""
    cancelled = is_cancelled(instance, run_id)
    if cancelled:
        interrupt()
    return cancelled


def is_cancelled(instance: DagsterInstance, run_id: str) -> bool:
    """Whether an operator has cancelled the run."""
    run = instance.get_run_by_id(run_id)
    return run is not None and (
        run.status in CANCELLED or (not run.is_finished and _cancel_is_recorded(instance, run_id))
    )


def interrupt() -> None:
    """Wakes Dagster's interrupt handling in the main thread, which ends the run as cancelled."""
    os.kill(os.getpid(), signal.SIGINT)


def _cancel_is_recorded(instance: DagsterInstance, run_id: str) -> bool:
    """Whether a cancel is recorded. A run cancelled just as it starts has the status STARTED."""
    return bool(
        instance.get_records_for_run(
            run_id, of_type=DagsterEventType.RUN_CANCELING, limit=1
        ).records
    )
