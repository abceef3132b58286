"""The log of a process of Dagster's or Celery's: our own lines, each once."""

import subprocess
import sys

import pytest

WARNS = """
import logging
from seg_pipeline.runtime.process_logs import take_over_logs

take_over_logs("worker")
logging.getLogger("seg_pipeline.runtime").warning("outside of a run")
"""


@pytest.mark.process
def test_a_warning_outside_of_a_run_is_one_line() -> None:
    """It is passed on to the run's events, too, and nobody takes those."""
    done = subprocess.run(
        [sys.executable, "-c", WARNS], capture_output=True, text=True, timeout=120, check=True
    )
    (line,) = (done.stdout + done.stderr).splitlines()
    assert "outside of a run" in line
