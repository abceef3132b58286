"""Launches runs on warm workers: the broker gets a run's id, and a warm worker takes it."""

from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.launcher import LaunchRunContext, RunLauncher
from dagster._serdes import ConfigurableClassData
from dagster_celery.tags import DAGSTER_CELERY_QUEUE_TAG

from seg_pipeline.defs.run_tags import lane_of_run
from seg_pipeline.runtime.celery_app import EXECUTE_RUN_TASK, PRIORITY_STEP, make_celery
from seg_pipeline.runtime.configured import ConfiguredBySettings
from seg_pipeline.runtime.upkeep import UPKEEP_TAG, start_upkeep
from seg_pipeline.settings import get_settings


class WarmRunLauncher(ConfiguredBySettings, RunLauncher[DagsterInstance]):
    """Sends a run's id to the broker, on dagster-celery's queue tag or the default queue.

    It is not a subclass of dagster-celery's launcher. That one cancels by revoking the Celery task,
    which needs a control channel and ends the run as failed. It also offers to resume runs and to
    check on them, by tags that our task never sets. The base class here offers neither: recovery
    watches the heartbeats and requests a new run.
    """

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(inst_data)
        settings = get_settings()
        self.default_queue = settings.celery_queue
        self.celery = make_celery(settings)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Puts the run's id on its queue, and returns as soon as the broker has it.

        A run of upkeep gets a process instead.
        """
        run = context.dagster_run
        if UPKEEP_TAG in run.tags:
            start_upkeep(run.run_id)
            return
        queue = run.tags.get(DAGSTER_CELERY_QUEUE_TAG, self.default_queue)
        self.celery.send_task(
            EXECUTE_RUN_TASK,
            args=[run.run_id],
            queue=queue,
            routing_key=f"{queue}.run",
            priority=PRIORITY_STEP * lane_of_run(run.tags),
        )

    def terminate(self, run_id: str) -> bool:
        """Marks the run as being cancelled. Its worker sees that within a heartbeat and stops it.

        A run that no worker has begun is cancelled at once.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        waiting = run.status != DagsterRunStatus.STARTED
        self._instance.report_run_canceling(run)
        if waiting:
            self._instance.report_run_canceled(run, "Cancelled before a worker had begun it.")
        return True
