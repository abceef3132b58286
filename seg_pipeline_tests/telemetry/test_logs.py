"""One log: the same JSON from every process, and colours on terminals only."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import structlog

from seg_pipeline.telemetry.logs import InheritingPool, about
from seg_pipeline_tests.log_streams import logging_to

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/log-line.schema.json").read_text())

logger = logging.getLogger("seg_pipeline.test")


class Terminal(io.StringIO):
    """A stream that says that a person reads it."""

    def isatty(self) -> bool:
        """Yes."""
        return True


@pytest.fixture(params=[io.StringIO])
def stream(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """Where a process that was configured as `worker` writes."""
    with logging_to(request.param(), "worker") as stream:
        yield stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """What was written, each line held to the schema."""
    read = [json.loads(line) for line in stream.getvalue().splitlines()]
    for line in read:
        jsonschema.validate(line, SCHEMA)
    return read


def test_standard_and_structlog_lines_look_the_same(stream: io.StringIO) -> None:
    logger.info("loaded %s", "demo-yolo")
    structlog.get_logger("seg_pipeline.test").info("loaded demo-yolo")
    first, second = lines(stream)
    assert {**first, "timestamp": ""} == {**second, "timestamp": ""}
    assert list(first) == ["timestamp", "level", "process", "logger", "event"]


def test_a_line_about_a_job_names_job_and_run(stream: io.StringIO) -> None:
    with about("job-1", "run-1"):
        logger.warning("inside")
    logger.warning("outside")
    inside, outside = lines(stream)
    assert (inside["uuid"], inside["run_id"]) == ("job-1", "run-1")
    assert not {"uuid", "run_id"} & outside.keys()


def test_threads_name_the_job_of_whoever_asked_them(stream: io.StringIO) -> None:
    """And the next work of the same thread is not about that job any more."""
    with InheritingPool(1) as pool:
        with about("job-1"):
            pool.submit(logger.warning, "first").result()
        pool.submit(logger.warning, "second").result()
    first, second = lines(stream)
    assert first["uuid"] == "job-1"
    assert "uuid" not in second


def test_a_traceback_is_one_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("so\nit is")
    except ValueError:
        logger.exception("it failed")
    (line,) = lines(stream)
    assert "ValueError: so\nit is" in line["exception"]


def test_what_is_no_text_is_written_all_the_same(stream: io.StringIO) -> None:
    logger.info("a name that is no text: %s", b"\xff\xfe".decode("utf-8", "surrogateescape"))
    structlog.get_logger("seg_pipeline.test").info("a thing", thing=Path("x"))
    assert len(lines(stream)) == 2


def test_warnings_are_lines(stream: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    (line,) = lines(stream)
    assert line["level"] == "warning"
    assert "old" in line["event"]


def test_other_libraries_chatter_is_left_out(stream: io.StringIO) -> None:
    logging.getLogger("botocore.hooks").info("chatter")
    logging.info("chatter")
    logging.getLogger("botocore.hooks").warning("news")
    assert [line["event"] for line in lines(stream)] == ["news"]


@pytest.mark.parametrize("stream", [Terminal], indirect=True)
def test_a_terminal_gets_colours_and_no_json(stream: io.StringIO) -> None:
    with about("job-1"):
        logger.error("it failed")
    text = stream.getvalue()
    assert "\x1b[" in text
    assert "it failed" in text
    assert "job-1" in text
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(text)
