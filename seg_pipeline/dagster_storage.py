"""Where a `dagster.yaml` of before `runtime/` looks for the storage, and `python -m
seg_pipeline.dagster_storage`."""

from seg_pipeline.runtime.dagster_storage import SegPipelineStorage, prepare

__all__ = ["SegPipelineStorage"]

if __name__ == "__main__":
    prepare()
