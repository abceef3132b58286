"""What programs print: JSON for the file, readable for the terminal."""

import json
from pathlib import Path

import jsonschema
import pytest

from seg_pipeline.local.log_lines import read_log_line

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/log-line.schema.json").read_text())
OURS = {
    "timestamp": "2026-01-02T12:00:00.000000Z",
    "level": "error",
    "process": "worker",
    "logger": "seg_pipeline.x",
    "event": "it failed",
}


@pytest.mark.parametrize(
    ("printed", "level"),
    [
        (b"plain words\n", "info"),
        (b"2026-01-02 WARNING x: look\r\n", "warning"),
        (b"\x1b[31mERROR\x1b[0m: red\n", "error"),
        (b"FATAL: the end\n", "critical"),
        (b'{"half": \n', "info"),
        (b'{"other": "json"}\n', "info"),
        (b"\xff\xfe no text\n", "info"),
    ],
)
def test_what_is_not_ours_becomes_a_line_like_ours(printed: bytes, level: str) -> None:
    line = read_log_line(printed, "worker")
    assert line
    document = json.loads(line.to_bytes())
    jsonschema.validate(document, SCHEMA)
    assert (document["level"], document["process"], document["logger"]) == (
        level,
        "worker",
        "output",
    )
    assert line.is_alarming == (level != "info")


def test_ours_stays_as_it_is() -> None:
    line = read_log_line(json.dumps({**OURS, "uuid": "job-1"}).encode() + b"\n", "daemon")
    assert line
    assert json.loads(line.to_bytes()) == {**OURS, "uuid": "job-1"}
    assert line.is_alarming


@pytest.mark.parametrize("printed", [b"\n", b"  \n", b""])
def test_a_blank_line_is_none(printed: bytes) -> None:
    assert read_log_line(printed, "worker") is None


def test_people_read_the_job_and_the_cause() -> None:
    trace = (
        "Traceback (most recent call last):\n  File x\n    raise ValueError('no')\nValueError: no"
    )
    line = read_log_line(
        json.dumps({**OURS, "uuid": "job-1", "exception": trace}).encode(), "worker"
    )
    assert line
    assert line.readable() == "ERROR it failed (job job-1): ValueError: no"
    assert (
        line.readable(in_colours=True)
        == "\x1b[31mERROR\x1b[0m it failed (job job-1): ValueError: no"
    )


def test_a_cause_is_found_in_dagsters_way_of_telling() -> None:
    told = (
        "x.SensorExecutionError: Error occurred\n\nStack Trace:\n  File y\nThe above exception was"
        " caused by the"
    )
    told += (
        " following exception:\nz.AlarmBegan: ALARM nothing_parked: 1\n\nStack Trace:\n  File y\n  "
        "  raise AlarmBegan()"
    )
    line = read_log_line(json.dumps({**OURS, "exception": told}).encode(), "daemon")
    assert line
    assert line.readable() == "ERROR it failed: z.AlarmBegan: ALARM nothing_parked: 1"
