"""Where a `dagster.yaml` from before `runtime/` finds the storage.

It is also `python -m seg_pipeline.dagster_storage`.
"""

from seg_pipeline.runtime.dagster_storage import SegPipelineStorage, prepare

__all__ = ["SegPipelineStorage"]

if __name__ == "__main__":
    prepare()
