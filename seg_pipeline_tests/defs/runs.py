"""Runs over pictures as the sensors ask for them, and a service whose ticks end soon."""

from pathlib import Path
from typing import Any

import dagster as dg

from seg_pipeline.defs.assets import segmentation_assets
from seg_pipeline.defs.jobs import segment_images
from seg_pipeline.defs.resources import PassedJobs
from seg_pipeline.pipeline.stages import StageContext
from seg_pipeline_tests.builders import make_context


def make_quick_context(folder: Path, **values: Any) -> StageContext:
    """A context whose sensors wait for tenths of a second."""
    return make_context(folder, **{"tick_seconds": 0.2, "inbox_poll_seconds": 0.02, **values})


def job_definition(stage_context: StageContext) -> dg.JobDefinition:
    """The job over pictures, with its assets, on this context."""
    resources = {"stage_context": stage_context, "passed_jobs": PassedJobs()}
    definitions = dg.Definitions(
        assets=[segmentation_assets], jobs=[segment_images], resources=resources
    )
    return definitions.get_repository_def().get_job("segment_images")


def make_run(
    instance: dg.DagsterInstance,
    stage_context: StageContext,
    run_key: str,
    status: dg.DagsterRunStatus,
) -> dg.DagsterRun:
    """A run as a sensor's request made it."""
    return instance.create_run_for_job(
        job_definition(stage_context), status=status, tags={"dagster/run_key": run_key}
    )
