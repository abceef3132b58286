"""Executes one run of upkeep, such as the prune: `python -m seg_pipeline.runtime.upkeep RUN_ID`.

Its own process takes seconds to start, which nobody waits for. The run may take minutes, and no
picture should wait behind it on a worker.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

from dagster import DagsterInstance

from seg_pipeline.errors import StoreError
from seg_pipeline.jobs.heartbeats import remove_upkeep_heartbeat, write_upkeep_heartbeat
from seg_pipeline.runtime.execution import execute, first_line, interrupt_if_cancelled
from seg_pipeline.runtime.literal_paths import take_paths_literally
from seg_pipeline.settings import get_settings
from seg_pipeline.store import Store, open_store
from seg_pipeline.telemetry.logs import about

UPKEEP_TAG = "seg_pipeline/upkeep"
"""The tag of jobs whose runs get a process of their own."""

logger = logging.getLogger(__name__)


def start_upkeep(run_id: str) -> None:
    """Starts the process without waiting.

    A thread writes its first heartbeat, lest it die before it can, and collects its exit status.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "seg_pipeline.runtime.upkeep", run_id], stdin=subprocess.DEVNULL
    )

    def watch() -> None:
        _beat(open_store(get_settings()), run_id, process.pid)
        process.wait()

    threading.Thread(target=watch, name=f"upkeep-{process.pid}", daemon=True).start()


def main() -> None:
    """Executes the run that the command line names."""
    (run_id,) = sys.argv[1:]
    take_paths_literally()
    from seg_pipeline.runtime.process_logs import take_over_logs

    take_over_logs("upkeep")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Dagster listens to it during the run
    with about(run_id=run_id), DagsterInstance.get() as instance:
        ended = threading.Event()
        watch = threading.Thread(
            target=_watch, args=(instance, run_id, ended), name="watch", daemon=True
        )
        watch.start()
        execute(instance, run_id)
        ended.set()
        watch.join()
    logger.info("run %s ended in process %s", run_id, os.getpid())


def _watch(instance: DagsterInstance, run_id: str, ended: threading.Event) -> None:
    """Writes heartbeats and looks for a cancel until the run has ended."""
    store = open_store(get_settings())
    while True:
        _beat(store, run_id, os.getpid())
        try:
            interrupt_if_cancelled(instance, run_id)
        except Exception as error:  # the database is away; the next look may tell
            logger.warning(
                "whether run %s is cancelled is not known yet: %s", run_id, first_line(error)
            )
        if ended.wait(get_settings().heartbeat_seconds):
            break
    with suppress(StoreError):
        remove_upkeep_heartbeat(store, run_id)


def _beat(store: Store, run_id: str, pid: int) -> None:
    try:
        write_upkeep_heartbeat(store, run_id, pid)
    except StoreError as error:
        logger.warning("no heartbeat written: %s", error)


if __name__ == "__main__":
    main()
