"""Requests backfills as the UI's *Materialize* does. Dagster's public API has no way to."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from dagster import AssetsDefinition, DagsterInstance
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.utils import make_new_backfill_id


def request_backfill(
    instance: DagsterInstance,
    assets: AssetsDefinition,
    partitions: Sequence[str],
    *,
    title: str,
    description: str,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Requests that all these assets be materialised for these partitions, which are registered.

    The daemon makes the runs, which get the tags. Returns the backfill's id.
    """
    targets = {
        AssetKeyPartitionKey(key, partition) for key in assets.keys for partition in partitions
    }
    graph = AssetGraph.from_assets([assets])
    backfill = PartitionBackfill.from_asset_graph_subset(
        backfill_id=make_new_backfill_id(),
        backfill_timestamp=datetime.now(UTC).timestamp(),
        tags=dict(tags or {}),
        dynamic_partitions_store=instance,
        asset_graph_subset=AssetGraphSubset.from_asset_partition_set(targets, graph),
        title=title,
        description=description,
        run_config=None,
    )
    instance.add_backfill(backfill)
    return str(backfill.backfill_id)


def is_backfill_over(instance: DagsterInstance, backfill_id: str) -> bool:
    """Whether all runs of the backfill have ended, or it is gone."""
    backfill = instance.get_backfill(backfill_id)
    under_way = (BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING, BulkActionStatus.FAILING)
    return backfill is None or backfill.status not in under_way
