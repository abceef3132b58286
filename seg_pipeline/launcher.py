"""Where a `dagster.yaml` of before `runtime/` looks for the launcher."""

from seg_pipeline.runtime.launcher import WarmRunLauncher

__all__ = ["WarmRunLauncher"]
