"""Sends the logs of Dagster and Celery through `telemetry.logs`, instead of their own handlers.

During a run our own warnings become events that the UI shows (`RUN_EVENTS` in `dagster.yaml`).
Dagster's own events from WARNING on become lines of the log.
"""

import copy
import logging
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import dagster as dg
from celery.signals import setup_logging
from dagster._core.execution import context_creation_job, host_mode
from dagster._core.log_manager import LOG_RECORD_EVENT_ATTR
from dagster._utils import log as upstream

from seg_pipeline.telemetry.logs import configure_logging

RUN_EVENTS = logging.getLogger("run_events")
"""A logger whose records become events of the run, and nothing else.

A run sets its level. If this were `seg_pipeline`, a run would silence it below WARNING.
"""
RUN_EVENTS.addHandler(logging.NullHandler())  # else Python prints what comes outside of runs


def take_over_logs(process: str) -> None:
    """Configures this process's log. Call it before Dagster's commands are run."""
    configure_logging(process)
    _replace_everywhere("configure_loggers", upstream.configure_loggers, _keep_ours)
    for module in (context_creation_job, host_mode):
        module.default_system_loggers = _run_loggers  # type: ignore[attr-defined]
    setup_logging.connect(_celery_keeps_ours, weak=False)
    _pass_warnings_on_to_runs()


def _replace_everywhere(name: str, original: object, replacement: object) -> None:
    """Replaces it in the module that defines it, and in all that imported it by name."""
    for module in [*sys.modules.values()]:
        if isinstance(module, ModuleType) and module.__dict__.get(name) is original:
            setattr(module, name, replacement)


def _keep_ours(
    handler: str = "default", formatter: str = "colored", log_level: str | int = "INFO"
) -> None:
    """Replaces Dagster's `configure_loggers`: its loggers' lines go up to our handler."""
    for name in ("dagster", "dagster-webserver"):
        logging.getLogger(name).setLevel(log_level)


def _celery_keeps_ours(**_: Any) -> None:
    """Makes Celery configure no logging: it does not where this signal has a receiver."""


def _run_loggers(
    _: dg.DagsterInstance | None,
) -> Sequence[tuple[dg.LoggerDefinition, Mapping[str, object]]]:
    """Replaces the logger that prints a run's events in colours."""
    return [(_run_logger, {})]


@dg.logger
def _run_logger(_: dg.InitLoggerContext) -> logging.Logger:
    """Writes a run's own events into the process's log."""
    return _RunLogger("dagster.run", logging.WARNING)


class _RunLogger(logging.Logger):
    """Passes Dagster's events on, except failures that our own code raised and logged already."""

    def handle(self, record: logging.LogRecord) -> None:
        event = getattr(record, LOG_RECORD_EVENT_ATTR, None)
        error = getattr(getattr(event, "event_specific_data", None), "error", None)
        if event is not None and getattr(error, "cls_name", None) != dg.Failure.__name__:
            logging.getLogger(self.name).handle(record)


class _ToRunEvents(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        RUN_EVENTS.handle(copy.copy(record))  # Dagster writes into what it gets


def _pass_warnings_on_to_runs() -> None:
    RUN_EVENTS.propagate = False
    ours = logging.getLogger("seg_pipeline")
    if not any(isinstance(handler, _ToRunEvents) for handler in ours.handlers):
        ours.addHandler(_ToRunEvents(logging.WARNING))
