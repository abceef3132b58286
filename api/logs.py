"""Logging of the API process: one line an event, the job's uuid in each that is about a job."""

import logging
import sys
from typing import TextIO

import structlog


def configure_logging(stream: TextIO | None = None) -> None:
    """Sends structlog's and the standard library's lines through one formatter to stderr (or another stream).

    Coloured columns on a terminal, `key=value` (logfmt) elsewhere. What a request bound (its job's uuid) is on every
    line that is written while it is answered, also on the server's access line and on those of the pure code.
    """
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_renderers(handler.stream))
    )
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)


def _renderers(stream: TextIO) -> list[structlog.types.Processor]:
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if stream.isatty():
        return [remove_meta, structlog.dev.ConsoleRenderer()]
    order = ["timestamp", "level", "logger", "event", "uuid"]
    return [
        remove_meta,
        structlog.processors.format_exc_info,
        structlog.processors.LogfmtRenderer(key_order=order, drop_missing=True),
    ]
