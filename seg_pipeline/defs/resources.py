"""What ops and sensors work with, built once per process and kept in memory.

Dagster builds resources anew for every run; models, clients and connections must outlive that.
"""

from functools import lru_cache

import dagster as dg

from seg_pipeline.segmenters.warm import WarmModels
from seg_pipeline.settings import get_settings
from seg_pipeline.stages import Workbench
from seg_pipeline.store import open_store


@lru_cache(maxsize=1)
def workbench() -> Workbench:
    """This process's workbench. No model is loaded before the first run that needs one."""
    settings = get_settings()
    return Workbench(settings, open_store(settings), WarmModels(settings))


@dg.resource(description="Store, inbox and models of this process.")
def workbench_resource(_: dg.InitResourceContext) -> Workbench:
    """The process's workbench, as a resource; a test passes its own in its place."""
    return workbench()
