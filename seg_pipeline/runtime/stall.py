"""Ends a worker's child whose run makes no progress. Recovery does its jobs again.

The child does it itself, and says so in the run's log. If it cannot, since it is stopped or a
library keeps Python's lock, the parent ends it a minute later.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from dagster import DagsterInstance

from seg_pipeline.runtime.execution import first_line
from seg_pipeline.telemetry.activity import RunActivity

logger = logging.getLogger(__name__)

LATER_SECONDS = 60.0
"""How much longer the parent waits than the child."""

LOOK_SECONDS = 1.0


def end_this_process(
    instance: DagsterInstance, run_id: str, seconds: float, record: Callable[[], None]
) -> None:
    """Records whose fault it is, says in the run's log why, and kills this process."""
    problem = f"The run made no progress for {seconds:g} s; its worker's process is ended."
    logger.critical("run %s made no progress for %g s; this process is ended", run_id, seconds)
    try:
        record()
        instance.report_engine_event(problem, instance.get_run_by_id(run_id))
    except Exception as error:
        logger.warning("run %s does not say so: %s", run_id, first_line(error))
    os.kill(os.getpid(), signal.SIGKILL)


def watch_child(activity: RunActivity, seconds: float) -> None:
    """Starts the parent's thread, which kills the child if it does not end itself in time."""
    threading.Thread(
        target=_watch, args=(activity, seconds + LATER_SECONDS), name="stall", daemon=True
    ).start()


def _watch(activity: RunActivity, seconds: float) -> None:
    while True:
        time.sleep(LOOK_SECONDS)
        pid = activity.stalled(seconds)
        if pid:
            logger.critical("process %d made no progress for %g s; it is killed", pid, seconds)
            activity.end()
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
