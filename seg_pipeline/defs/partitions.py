"""One partition per job."""

import dagster as dg

job_partitions = dg.DynamicPartitionsDefinition(name="jobs")
"""Keys are job uuids. Registered by the sensors, removed by the prune schedule."""

PARTITION_TAG = "dagster/partition"
RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"
