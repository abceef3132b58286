"""One partition per job."""

import dagster as dg

job_partitions = dg.DynamicPartitionsDefinition(name="jobs")
"""Keys are job uuids. The sensors register them, and the prune schedule removes them."""

PARTITION_TAG = "dagster/partition"
RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"
