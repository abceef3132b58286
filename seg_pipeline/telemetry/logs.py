"""One log for all processes: a JSON object a line in files, coloured text on terminals.

`docs/log-line.schema.json` describes a line. Every line about a job carries its `uuid` and
`run_id`. `about` binds them where work on a job begins, and the threads of an `InheritingPool`
inherit them.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, TextIO, TypeVar

import structlog
from structlog.contextvars import bound_contextvars

T = TypeVar("T")

FIRST_KEYS = ("timestamp", "level", "process", "logger", "event", "uuid", "run_id")
"""The fields that come first in a line."""


HEARD = ("api", "seg_pipeline", "dagster", "dagster-webserver", "uvicorn")
"""Loggers that write lines from INFO on. Other libraries write warnings only."""


def configure_logging(
    process: str, stream: TextIO | None = None, level: int = logging.INFO
) -> None:
    """Sends the lines of structlog and the standard library to stderr or `stream`."""
    shared = _shared_processors(process)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=_renderers(handler.stream)
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    for name in HEARD:
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(True)


@contextmanager
def about(uuid: str | None = None, run_id: str | None = None) -> Iterator[None]:
    """Binds the job and the run to every line that the block writes, as far as they are given."""
    known = {
        name: value for name, value in (("uuid", uuid), ("run_id", run_id)) if value is not None
    }
    with bound_contextvars(**known):
        yield


@contextmanager
def lines_also_to(stream: TextIO) -> Iterator[None]:
    """What this process logs inside, any thread of it, goes to the stream too."""
    root = logging.getLogger()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(root.handlers[0].formatter if root.handlers else None)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


class InheritingPool(ThreadPoolExecutor):
    """Threads whose lines carry what is bound in the thread that submits the work."""

    def submit(self, work: Callable[..., T], /, *arguments: Any, **named: Any) -> Future[T]:
        """As `ThreadPoolExecutor.submit`."""
        return super().submit(copy_context().run, work, *arguments, **named)


def _shared_processors(process: str) -> list[structlog.types.Processor]:
    def add_process(
        _logger: Any, _method: str, event: structlog.types.EventDict
    ) -> structlog.types.EventDict:
        event["process"] = process
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_process,
        _from_dagster,
    ]


def _from_dagster(
    _logger: Any, _method: str, event: structlog.types.EventDict
) -> structlog.types.EventDict:
    """Turns the prefix of a Dagster run's line into fields."""
    meta = getattr(event.get("_record"), "dagster_meta", None)
    if meta:
        event["event"] = meta.get("orig_message") or event["event"]
        fields = {
            "run_id": meta.get("run_id"),
            "step": meta.get("step_key"),
            "job": meta.get("job_name"),
        }
        event.update({name: value for name, value in fields.items() if value})
        if error := getattr(
            getattr(meta.get("dagster_event"), "event_specific_data", None), "error", None
        ):
            event["exception"] = error.to_string()
    return event


def _renderers(stream: TextIO) -> list[structlog.types.Processor]:
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if stream.isatty():
        return [remove_meta, structlog.dev.ConsoleRenderer()]
    return [
        remove_meta,
        structlog.processors.format_exc_info,
        _in_order,
        structlog.processors.JSONRenderer(default=str),
    ]


def _in_order(
    _logger: Any, _method: str, event: structlog.types.EventDict
) -> structlog.types.EventDict:
    first = {name: event[name] for name in FIRST_KEYS if name in event}
    return {**first, **event}
