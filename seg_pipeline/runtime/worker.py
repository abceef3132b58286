"""The warm worker: `python -m seg_pipeline.runtime.worker` takes runs, one at a time.

The parent only talks to the broker. It forks one child, which keeps the models, Dagster's instance
and every connection from run to run. The child's heartbeat thread also notices a run that is
cancelled or makes no progress, and unloads idle models.
"""

import contextlib
import logging
import mmap
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property, partial
from itertools import count
from typing import Any

from billiard import current_process
from billiard.util import set_pdeathsig
from celery import Celery
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning
from celery.signals import worker_process_init, worker_process_shutdown
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from seg_pipeline.defs.resources import shared_stage_context
from seg_pipeline.defs.run_config import uuids_of_run
from seg_pipeline.errors import DeviceBroken, StoreError
from seg_pipeline.jobs.backoff import growing_pause
from seg_pipeline.jobs.heartbeats import (
    WorkerHeartbeat,
    all_workers,
    died_here,
    live_workers,
    remove_heartbeat,
    write_heartbeat,
)
from seg_pipeline.local.gpus import GpuClaim, take_gpu
from seg_pipeline.pipeline.stages import record_stall
from seg_pipeline.runtime.allocator import keep_freed_memory
from seg_pipeline.runtime.celery_app import EXECUTE_RUN_TASK, make_celery
from seg_pipeline.runtime.dagster_home import make_dagster_home_ready
from seg_pipeline.runtime.execution import (
    execute,
    first_line,
    interrupt,
    is_cancelled,
    why_it_failed,
)
from seg_pipeline.runtime.process_logs import take_over_logs
from seg_pipeline.runtime.stall import end_this_process, watch_child
from seg_pipeline.segmenters.kept_files import prune_embeddings
from seg_pipeline.settings import get_settings
from seg_pipeline.telemetry.activity import ACTIVITY
from seg_pipeline.telemetry.logs import about
from seg_pipeline.telemetry.snapshots import Reporter

logger = logging.getLogger(__name__)

_OPTIONS = (
    "--quiet",
    "worker",
    "--pool=prefork",
    "--concurrency=1",
    "--loglevel=WARNING",
    # Messages between workers need a control channel, which the folder broker does not have.
    "--without-gossip",
    "--without-mingle",
    "--without-heartbeat",
)


UNBEGUN_RUNS = 3
"""After so many runs in a row that fail before their first stage, the worker is at fault."""

LONGEST_STORAGE_PAUSE_SECONDS = 10.0


class HeartbeatThread(threading.Thread):
    """Writes every few seconds that this process lives and what it works on."""

    def __init__(self, name: str) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._settings = get_settings()
        self._stage_context = shared_stage_context()
        self._started_at = datetime.now(UTC)
        self._idle_since: datetime | None = self._started_at
        self._run_id: str | None = None
        self._uuids: list[str] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self.worker_name = name
        self.problem: str | None = None

    def run(self) -> None:
        """Writes heartbeats until stopped.

        It goes on while the store is unavailable: the heartbeat grows stale until the store is
        back.
        """
        while not self._stopping.is_set():
            self._beat_quietly()
            self._look_after_the_run()
            self._end_a_stalled_run()
            self._stopping.wait(self._settings.heartbeat_seconds)

    def _look_after_the_run(self) -> None:
        """Stops a cancelled run, unloads idle models and removes old embeddings.

        No error may end the thread, least of all an unavailable database. The worker would count as
        dead, and its jobs would be done twice.
        """
        run_id = self._run_id
        try:
            self._stage_context.models.unload_idle()
            prune_embeddings(self._settings)
            if run_id and (
                is_cancelled(child.instance, run_id)
                or self._stage_context.look_for_cancels(self._uuids)
            ):
                self._interrupt(run_id)
        except Exception as error:
            logger.warning(
                "whether run %s is cancelled is not known yet: %s", run_id, first_line(error)
            )

    def _end_a_stalled_run(self) -> None:
        run_id, uuids, seconds = self._run_id, self._uuids, self._settings.run_stall_seconds
        if run_id and ACTIVITY.stalled(seconds):
            record = partial(record_stall, self._stage_context, uuids)
            end_this_process(child.instance, run_id, seconds, record)

    def give_up(self, problem: str) -> None:
        """Ends the thread. The last heartbeat stays, and says why."""
        self._stopping.set()
        self.problem = problem
        self._beat_quietly()

    def stop(self) -> None:
        """Ends the thread and removes the heartbeat, so that nobody waits for it to grow stale."""
        self._stopping.set()
        with contextlib.suppress(StoreError):
            remove_heartbeat(self._stage_context.store, self.worker_name)

    @contextmanager
    def during(self, run_id: str, uuids: list[str]) -> Iterator[None]:
        """Names the run in the heartbeat from before its start until its end is recorded.

        Recovery takes a started run that no heartbeat names for lost.
        """
        with self._lock:
            self._run_id, self._uuids, self._idle_since = run_id, uuids, None
        if uuids:
            ACTIVITY.begin()
        self._beat_quietly()
        try:
            yield
        finally:
            ACTIVITY.end()
            with self._lock:
                self._run_id, self._uuids, self._idle_since = None, [], datetime.now(UTC)
            self._beat_quietly()

    def _beat_quietly(self) -> None:
        try:
            with self._lock:
                write_heartbeat(self._stage_context.store, self._beat())
        except StoreError as error:
            logger.warning("no heartbeat written: %s", error)
        except Exception:  # the worker lives, and is to say so again as soon as it can
            logger.exception("no heartbeat written")

    def _interrupt(self, run_id: str) -> None:
        """Stops the current run. While a model is loading, it leaves that to the next heartbeat."""
        with self._stage_context.models.not_loading() as free:
            if free:
                logger.info("run %s is cancelled", run_id)
                interrupt()

    def _beat(self) -> WorkerHeartbeat:
        return WorkerHeartbeat(
            name=self.worker_name,
            pid=os.getpid(),
            host=socket.gethostname(),
            beat_at=datetime.now(UTC),
            run_id=self._run_id,
            uuids=tuple(self._uuids),
            models=tuple(self._stage_context.models.loaded()),
            idle_since=None if self.problem else self._idle_since,
            started_at=self._started_at,
            problem=self.problem,
        )


class PoolChild:
    """What the executing process keeps from run to run."""

    unbegun_runs = 0
    gpu: GpuClaim | None = None
    """Held for the life of the process."""

    @cached_property
    def instance(self) -> DagsterInstance:
        """One instance with its pooled connections, for the life of the process."""
        return DagsterInstance.get()

    @cached_property
    def heartbeat_thread(self) -> HeartbeatThread:
        """The thread that writes this process's heartbeat."""
        return HeartbeatThread(f"{socket.gethostname()}-{os.getpid()}")

    @cached_property
    def reporter(self) -> Reporter:
        """Reports this process's metrics."""
        return Reporter(shared_stage_context().store, "worker", get_settings().heartbeat_seconds)

    def finish_run_logs(self) -> None:
        """Returns when the logs of this process's runs are where the UI reads them."""
        if "instance" in self.__dict__:
            self.instance.compute_log_manager.dispose()


child = PoolChild()

_has_failed = mmap.mmap(-1, 1)
"""One byte that parent and children share.

It is 1 after a child could not be prepared, or ended the worker itself.
"""


def execute_run(run_id: str) -> None:
    """Executes a launched run. One that is finished or gone is ignored: deliveries may repeat."""
    run = _look_up(run_id)
    if run is None or run.is_finished:
        logger.info("run %s is over; its late delivery is ignored", run_id)
    elif run.status in (DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING):
        _close_abandoned(run)
    else:
        _execute(run)


def _look_up(run_id: str) -> DagsterRun | None:
    """The run, as soon as Dagster's storage answers.

    Without the storage a worker can do nothing, and its heartbeat says so. If it took one run after
    the other meanwhile, each would be lost.
    """
    for failures in count(1):
        try:
            run = child.instance.get_run_by_id(run_id)
        except Exception as error:
            child.heartbeat_thread.problem = (
                f"Dagster's storage does not answer: {first_line(error)}"
            )
            logger.warning("run %s has to wait: %s", run_id, child.heartbeat_thread.problem)
            time.sleep(growing_pause(failures, LONGEST_STORAGE_PAUSE_SECONDS))
        else:
            child.heartbeat_thread.problem = None
            return run
    raise AssertionError("unreachable")


def _execute(run: DagsterRun) -> None:
    """Executes the run. Ends the worker if its runs cannot begin, or if it has lost its GPU."""
    stage_context, uuids = shared_stage_context(), uuids_of_run(run)
    alone = uuids[0] if len(uuids) == 1 else None
    with (
        about(alone, run.run_id),
        child.heartbeat_thread.during(run.run_id, uuids),
        stage_context.one_run(),
    ):
        reason = _run_to_its_end(run.run_id)
        child.unbegun_runs = (
            0 if stage_context.has_begun or reason is None else child.unbegun_runs + 1
        )
    if stage_context.broken:
        _take_out(stage_context.broken)
    if child.unbegun_runs >= UNBEGUN_RUNS:
        _take_out(
            f"{UNBEGUN_RUNS} runs in a row failed before their first stage, the last of: {reason}"
        )


def _run_to_its_end(run_id: str) -> str | None:
    """Why the run failed, if it did before its first stage or could not record it."""
    try:
        execute(child.instance, run_id)
        return None if shared_stage_context().has_begun else why_it_failed(child.instance, run_id)
    except Exception as error:
        logger.warning(
            "run %s could not be executed: %s: %s", run_id, type(error).__name__, first_line(error)
        )
        return first_line(error)


def _take_out(problem: str) -> None:
    """Ends the worker, so that another one replaces it. Until then the last heartbeat says why."""
    logger.critical("this worker takes itself out: %s", problem)
    child.heartbeat_thread.give_up(problem)
    child.finish_run_logs()
    _fail_parent()


def _close_abandoned(run: DagsterRun) -> None:
    """Ends a run that was delivered again after its start, unless another worker executes it."""
    settings = get_settings()
    heartbeats = live_workers(
        shared_stage_context().store, datetime.now(UTC), settings.worker_stale_seconds
    )
    if any(heartbeat.run_id == run.run_id for heartbeat in heartbeats):
        logger.info("run %s is in another worker's hands", run.run_id)
    elif run.status == DagsterRunStatus.CANCELING:
        child.instance.report_run_canceled(run, "Cancelled; its worker was lost.")
    else:
        child.instance.report_run_failed(run, "The worker was lost; the sweeper asks again.")


def _begin_child(lifeline: tuple[int, int], **_: Any) -> None:
    """Prepares a new child.

    A failure ends the whole worker: Celery only logs what a signal's receiver raises, and a half
    prepared child would take runs.
    """
    if _has_failed[0]:
        os._exit(os.EX_SOFTWARE)  # the parent was quicker to fork than to stop
    try:
        end_with_parent(*lifeline)
        _free_locks_of_the_dead()
        ACTIVITY.end()
        keep_freed_memory()
        _forget_dead_neighbours()
        child.gpu = take_gpu(get_settings().device, get_settings().data_dir / "gpus")
        child.heartbeat_thread.start()
        child.reporter.start()
        threading.Thread(target=_warm_up, name="warm-up", daemon=True).start()
    except Exception:
        logger.critical(
            "the worker cannot start, because its child cannot be prepared", exc_info=True
        )
        _fail_parent()


def _warm_up() -> None:
    """Loads the models of WARM_MODELS while the child already takes runs of other models."""
    try:
        shared_stage_context().models.warm_up()
    except DeviceBroken as error:
        _take_out(str(error))


def _fail_parent() -> None:
    """Ends parent and child with exit code 70 (EX_SOFTWARE)."""
    _has_failed[0] = 1
    os.kill(os.getppid(), signal.SIGTERM)
    os._exit(os.EX_SOFTWARE)


def end_with_parent(reader: int, writer: int) -> None:
    """Kills this process when its parent is gone, however it ended.

    Nobody then holds the pipe's writing end any more. This replaces Linux's parent-death signal,
    which the pool sets, and which comes when the *thread* that forked ends. The thread that forks a
    replacement child ends early in a parent that is told to stop: before the current run is
    finished.
    """
    os.close(writer)
    with contextlib.suppress(OSError):  # only Linux has it
        set_pdeathsig(0)
    threading.Thread(
        target=_wait_for_the_end_of, args=(reader,), daemon=True, name="lifeline"
    ).start()


def _wait_for_the_end_of(reader: int) -> None:
    os.read(reader, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def _end_child(exitcode: int, **_: Any) -> None:
    """Ends the child, whose results the pool has by now.

    Celery's own way sleeps another second, so that the parent can read a message. A stopping parent
    reads none, and the exit code says the same.
    """
    child.heartbeat_thread.stop()
    child.reporter.close()
    child.finish_run_logs()
    if exitcode == os.EX_OK:
        os._exit(exitcode)


def _free_locks_of_the_dead() -> None:
    """Frees the pool's locks that a killed child held.

    A child that is killed while it waits for work keeps the locks of the pool's pipes. The next
    child would wait for them for ever. There is one child at a time, so a lock that is held now is
    a dead child's.
    """
    process = current_process()
    # On Redis each child has pipes of its own.
    for lock in filter(None, (process.inq._rlock, process.outq._wlock)):
        lock.acquire(False)
        lock.release()


def _forget_dead_neighbours() -> None:
    """Removes the heartbeats of workers on this host whose processes are gone.

    Recovery then need not wait for them to grow stale.
    """
    store = shared_stage_context().store
    with contextlib.suppress(StoreError):
        for heartbeat in all_workers(store):
            if died_here(heartbeat):
                remove_heartbeat(store, heartbeat.name)


def make_worker() -> Celery:
    """The Celery application with our one task and the child's hooks."""
    app = make_celery(get_settings())
    app.task(execute_run, name=EXECUTE_RUN_TASK)
    worker_process_init.connect(partial(_begin_child, os.pipe()), weak=False)
    worker_process_shutdown.connect(_end_child, weak=False)
    return app


def main() -> None:
    """Runs the worker until SIGTERM, which lets the current run finish first."""
    try:
        make_dagster_home_ready(get_settings())
    except OSError as error:
        sys.exit(f"worker: {error}")
    import seg_pipeline.definitions  # noqa: F401  loaded before the fork, so that a new child is quick

    take_over_logs("worker")
    watch_child(ACTIVITY, get_settings().run_stall_seconds)
    with warnings.catch_warnings():
        # In a container, being root is nothing special.
        warnings.simplefilter("ignore", SecurityWarning)
        # Celery warns at each lost connection that a later version may stop the current run. Ours
        # goes on.
        warnings.simplefilter("ignore", CPendingDeprecationWarning)
        make_worker().worker_main([*_OPTIONS, f"--queues={get_settings().celery_queue}"])
    _leave()


def _leave() -> None:
    """Ends the parent, whose child is gone and whose connections are closed.

    The usual way first waits for a thread of the pool that sleeps for a second at a time, and then
    unloads the libraries.
    """
    logging.shutdown()
    os._exit(os.EX_SOFTWARE if _has_failed[0] else os.EX_OK)


if __name__ == "__main__":
    main()
