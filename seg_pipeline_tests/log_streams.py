"""A process's log in a test, as a process of the service sets it up."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from seg_pipeline.telemetry.logs import configure_logging


@contextmanager
def logging_to(stream: io.StringIO, process: str) -> Iterator[io.StringIO]:
    """Has this process log as one of that name; put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    configure_logging(process, stream)
    yield stream
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)
    structlog.reset_defaults()
