"""Backfills that our own jobs request."""

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

from seg_pipeline.defs.assets import STAGES, segmentation_assets
from seg_pipeline.runtime.backfills import request_backfill


def test_a_backfill_covers_these_partitions_of_all_assets() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("jobs", ["a", "b", "c"])
        backfill_id = request_backfill(
            instance, segmentation_assets, ["a", "c"], title="Again", description="By a test."
        )
        backfill = instance.get_backfill(backfill_id)
        assert backfill is not None
        data = backfill.get_asset_backfill_data(AssetGraph.from_assets([segmentation_assets]))
        for stage in STAGES:
            subset = data.target_subset.get_partitions_subset(dg.AssetKey(stage))
            keys = subset.get_partition_keys()
            assert set(keys) == {"a", "c"}
