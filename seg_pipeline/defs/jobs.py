"""The job that the sensors request runs of."""

import dagster as dg

from seg_pipeline.defs.assets import STAGES

segment_images = dg.define_asset_job(
    "segment_images",
    # Keys, not a string: hydra pins an antlr with which Dagster cannot read selection strings.
    selection=dg.AssetSelection.assets(*STAGES),
    executor_def=dg.in_process_executor,
    description="Segments the pictures of its partitions, on a warm worker.",
)
