"""The run configuration that names the jobs of a run: sensors write it, workers read it.

A partition range alone is not enough: it also covers a key that another sensor adds in between.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dagster import DagsterRun

from seg_pipeline.defs.partitions import PARTITION_TAG
from seg_pipeline.pipeline.stage_names import StageName

RUN_KEY_TAG = "dagster/run_key"
GRAPH = "segmentation"
FIRST_OP = StageName.SOURCE_IMAGE.value


def run_config_for(uuids: Sequence[str]) -> dict[str, Any]:
    """Configuration of a run over these jobs."""
    return {"ops": {GRAPH: {"ops": {FIRST_OP: {"config": {"uuids": list(uuids)}}}}}}


def uuids_in_config(run_config: Mapping[str, Any]) -> list[str]:
    """The jobs that the configuration names; none for a run that an operator started."""
    node: Any = run_config
    for name in ("ops", GRAPH, "ops", FIRST_OP, "config", "uuids"):
        node = node.get(name) if isinstance(node, Mapping) else None
    return list(node or [])


def uuids_of_run(run: DagsterRun) -> list[str]:
    """The jobs of a run, from the run alone. The partitions of a range are not read."""
    partition = run.tags.get(PARTITION_TAG)
    return uuids_in_config(run.run_config) or ([partition] if partition else [])
