"""The jobs that the sensors and the schedule ask for."""

import dagster as dg

from seg_pipeline.defs.assets import STAGES
from seg_pipeline.defs.partitions import job_partitions

segment_images = dg.define_asset_job(
    "segment_images",
    # Keys, not a string: hydra pins an antlr with which Dagster cannot read selection strings.
    selection=dg.AssetSelection.assets(*STAGES),
    partitions_def=job_partitions,
    executor_def=dg.in_process_executor,
    description="Segments the pictures of its partitions, on a warm worker.",
)
