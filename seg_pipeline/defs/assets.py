"""The stages of a job as ops of one graph and as assets.

    source_image → segments → cutouts → result → callback

Each op but the last has two outputs. `passed` carries the jobs that go on. `asset` stands for the
stage's asset, and is never yielded: that would mark every partition of the run. Instead each job
that passed is logged as a materialisation of its own. So in a run over many jobs exactly the good
ones turn green.

The last op, `callback`, has the app server told. It runs only for jobs that came by the queue:
Dagster skips the step of a run without one. It turns nothing green. The sensor `courier` does that,
after the delivery.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import dagster as dg

from seg_pipeline.defs.asset_specs import ARRIVALS, from_graph_arguments
from seg_pipeline.defs.partitions import job_partitions
from seg_pipeline.defs.run_config import FIRST_OP, GRAPH, RUN_KEY_TAG, uuids_in_config
from seg_pipeline.defs.run_tags import lane_of_run, tags_of_failure
from seg_pipeline.defs.shown_metadata import shown_metadata
from seg_pipeline.errors import JobCancelled, SegPipelineError
from seg_pipeline.jobs.claims import Claim
from seg_pipeline.jobs.file_links import file_links
from seg_pipeline.pipeline import stages
from seg_pipeline.pipeline.run_context import RunIdentity
from seg_pipeline.pipeline.stage_names import StageName
from seg_pipeline.pipeline.stages import Metadata, StageContext, StageReport
from seg_pipeline.telemetry.logs import about

logger = logging.getLogger(__name__)

CALLBACK = StageName.CALLBACK.value
STAGES = tuple(stage.value for stage in StageName)
"""As plain text, since Dagster stores no enums."""

StageFunction = Callable[[StageContext, Sequence[str]], StageReport]
Outputs = Iterator[dg.Output[list[str]]]

_OUTS = {
    "passed": dg.Out(list, is_required=False, io_manager_key="passed_jobs"),
    "asset": dg.Out(dg.Nothing, is_required=False),
}


def _first_op(name: str, stage: StageFunction, about: str) -> dg.OpDefinition:
    @dg.op(
        name=name,
        description=about,
        out=_OUTS,
        ins={spec.key.to_python_identifier(): dg.In(dg.Nothing) for spec in ARRIVALS},
        required_resource_keys={"stage_context"},
        config_schema={
            "uuids": dg.Field(
                [str], is_required=False, description="Jobs; the run's partitions if unset."
            )
        },
    )
    def first(context: dg.OpExecutionContext) -> Outputs:
        yield from _run_stage(context, name, stage, _jobs_of_run(context))

    return first


def _next_op(name: str, stage: StageFunction, about: str) -> dg.OpDefinition:
    @dg.op(
        name=name,
        description=about,
        out=_OUTS,
        ins={"jobs": dg.In()},
        required_resource_keys={"stage_context"},
    )
    def following(context: dg.OpExecutionContext, jobs: Any) -> Outputs:
        yield from _run_stage(context, name, stage, _jobs_of_run(context) if jobs is None else jobs)

    return following


@dg.op(
    name=CALLBACK,
    description=stages.record_callbacks.__doc__,
    out={"asset": _OUTS["asset"]},
    ins={"jobs": dg.In()},
    required_resource_keys={"stage_context"},
)
def _last_op(context: dg.OpExecutionContext, jobs: Any) -> Outputs:
    uuids = _jobs_of_run(context) if jobs is None else jobs
    report = stages.record_callbacks(context.resources.stage_context, uuids)
    _log_errors(report)
    if report.errors and len(uuids) == 1:
        raise dg.Failure(description=str(report.errors[uuids[0]]), allow_retries=False)
    yield from ()


def _jobs_of_run(context: dg.OpExecutionContext) -> list[str]:
    """The jobs that the run's configuration names, else all of its partitions."""
    return uuids_in_config(context.run.run_config) or list(context.partition_keys)


def _run_stage(
    context: dg.OpExecutionContext, name: str, stage: StageFunction, uuids: list[str]
) -> Outputs:
    """Runs a selected stage. A stage that is not selected left its results in the store.

    What an earlier stage has already begun is only collected. If no job goes on, `passed` is not
    yielded, and Dagster skips the steps that follow.
    """
    stage_context: StageContext = context.resources.stage_context
    if "asset" in context.selected_output_names:
        stage_context.run.begin(_stages_of(context.run), _identity_of(context))
        uuids = stages.jobs_of_this_run(stage_context, uuids) if name == FIRST_OP else uuids
        began = time.monotonic()
        report = stage(stage_context, uuids)
        seconds = time.monotonic() - began
        logger.info(
            "%s: %d of %d jobs go on, after %.3f s", name, len(report.passed), len(uuids), seconds
        )
        _log_materializations(context, stage_context, name, report)
        _settle_errors(context, stage_context, uuids, report)
        uuids = report.passed
    if uuids and "passed" in context.selected_output_names:
        yield dg.Output(uuids, "passed")


def _identity_of(context: dg.OpExecutionContext) -> RunIdentity:
    run = context.run
    # "Re-execute" copies the tags of the run that a sensor requested.
    is_operators = run.parent_run_id is not None
    run_key = None if is_operators else run.tags.get(RUN_KEY_TAG)
    return RunIdentity(run.run_id, run_key, len(_jobs_of_run(context)), lane_of_run(run.tags))


def _stages_of(run: dg.DagsterRun) -> frozenset[str]:
    """The stages whose assets the run makes.

    These are all of them, or those that an operator selected or that had not succeeded.
    """
    chosen = {key.to_user_string() for key in run.asset_selection or ()} or set(STAGES)
    steps = run.step_keys_to_execute or [f"{GRAPH}.{name}" for name in STAGES]
    return frozenset(name for name in chosen if f"{GRAPH}.{name}" in steps)


def _log_materializations(
    context: dg.OpExecutionContext, stage_context: StageContext, name: str, report: StageReport
) -> None:
    # A storage of ours stores them at once; any other stores each as it is logged.
    together = getattr(context.instance.event_log_storage, "together", nullcontext)
    with together():
        for uuid, metadata in report.metadata.items():
            shown = _shown(stage_context, metadata)
            context.log_event(dg.AssetMaterialization(name, partition=uuid, metadata=shown))


def _shown(stage_context: StageContext, metadata: Metadata) -> dict[str, Any]:
    settings = stage_context.settings
    return shown_metadata(metadata, file_links(stage_context.store, settings), settings.public_url)


def _settle_errors(
    context: dg.OpExecutionContext,
    stage_context: StageContext,
    uuids: list[str],
    report: StageReport,
) -> None:
    """Ends a lone job's run as failed."""
    _give_back(stage_context, report)
    _log_errors(report)
    if len(uuids) > 1:
        _settle_errors_of_several(context, stage_context, report)
        return
    if not report.errors:
        return
    ((uuid, error),) = report.errors.items()
    _show_failure(context, uuid, error)  # first: with the record, the client gets its answer
    final = stages.record_failure(
        stage_context, uuid, error, _claim_of_this_run(stage_context, uuid)
    )
    raise dg.Failure(
        description=str(error), metadata=_failure_metadata(uuid, error, final), allow_retries=False
    )


def _settle_errors_of_several(
    context: dg.OpExecutionContext, stage_context: StageContext, report: StageReport
) -> None:
    """Leaves bad jobs to recovery, which retries each in a run of its own, but not those that were
    cancelled.

    After an operator's run nobody does, so each partition shows why it is not green.
    """
    _end_cancelled(stage_context, report)
    if stage_context.run.identity.run_key is None:
        for uuid, error in report.errors.items():
            _show_on_partition(context, uuid, error)


def _give_back(stage_context: StageContext, report: StageReport) -> None:
    """Has those jobs wait again that the run left to another one."""
    for uuid in report.left:
        stage_context.progress.end(uuid)
    run_key = stage_context.run.identity.run_key
    stage_context.repository.claims.give_back(report.left, run_key)


def _end_cancelled(stage_context: StageContext, report: StageReport) -> None:
    for uuid, error in report.errors.items():
        if isinstance(error, JobCancelled):
            claim = _claim_of_this_run(stage_context, uuid)
            stages.record_failure(stage_context, uuid, error, claim)


def _show_failure(context: dg.OpExecutionContext, uuid: str, error: SegPipelineError) -> None:
    """Tags the run with the reason, and has the job's partition show it."""
    context.instance.add_run_tags(context.run_id, tags_of_failure(error))
    _show_on_partition(context, uuid, error)


def _show_on_partition(context: dg.OpExecutionContext, uuid: str, error: SegPipelineError) -> None:
    """The partition of `result` is where an operator looks, whatever stage failed."""
    metadata = {"why": str(error), "code": error.code, "fault": str(error.fault)}
    context.log_event(
        dg.AssetObservation(
            StageName.RESULT.value, description=str(error), partition=uuid, metadata=metadata
        )
    )


def _log_errors(report: StageReport) -> None:
    for uuid, error in report.errors.items():
        with about(uuid):
            logger.warning("job %s: %s", uuid, error)


def _claim_of_this_run(stage_context: StageContext, uuid: str) -> Claim | None:
    """The claim that this run was requested for; None if an operator started it."""
    claim = stage_context.repository.claims.claim_of(uuid)
    return claim if claim and claim.run_key == stage_context.run.identity.run_key else None


def _failure_metadata(uuid: str, error: SegPipelineError, final: bool) -> Metadata:
    return {"job": uuid, "code": error.code, "final": final}


def _doc(stage: StageFunction) -> str:
    return stage.__doc__ or ""


_ops = {
    FIRST_OP: _first_op(FIRST_OP, stages.prepare_sources, _doc(stages.prepare_sources)),
    **{
        name.value: _next_op(name.value, stage, _doc(stage))
        for name, stage in (
            (StageName.SEGMENTS, stages.find_segments),
            (StageName.CUTOUTS, stages.cut_segments),
            (StageName.RESULT, stages.publish_results),
        )
    },
}


@dg.graph(name=GRAPH, out={name: dg.GraphOut() for name in STAGES})
def segmentation(uploads: Any, queue_messages: Any) -> dict[str, Any]:
    """The way of a picture through the stages."""
    assets: dict[str, Any] = {}
    passed: Any = None
    for name, op in _ops.items():
        if passed is None:
            passed, assets[name] = op(uploads=uploads, queue_messages=queue_messages)
        else:
            passed, assets[name] = op(passed)
    assets[CALLBACK] = _last_op(passed)
    return assets


segmentation_assets = dg.AssetsDefinition.from_graph(
    segmentation,
    **from_graph_arguments(),
    keys_by_input_name={spec.key.to_python_identifier(): spec.key for spec in ARRIVALS},
    keys_by_output_name={name: dg.AssetKey(name) for name in STAGES},
    internal_asset_deps={
        name: {dg.AssetKey(STAGES[index - 1])} if index else {spec.key for spec in ARRIVALS}
        for index, name in enumerate(STAGES)
    },
    partitions_def=job_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="segmentation",
    can_subset=True,
)
