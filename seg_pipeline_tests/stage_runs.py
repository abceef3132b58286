"""Runs the stages one after the other, without Dagster."""

from seg_pipeline.pipeline import stages
from seg_pipeline.pipeline.stages import StageContext, StageReport

ALL = (stages.prepare_sources, stages.find_segments, stages.cut_segments, stages.publish_results)


def run_stages(context: StageContext, *uuids: str) -> list[StageReport]:
    """Every stage in turn, each with the jobs that the one before passed on."""
    passed, reports = list(uuids), []
    with context.one_run():
        for stage in ALL:
            reports.append(stage(context, passed))
            passed = [uuid for uuid in passed if uuid in reports[-1].metadata]
    return reports
