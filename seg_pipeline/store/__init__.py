"""Where jobs and files are stored: one key space over a folder, an S3 bucket or memory."""

from seg_pipeline.store.objects import ObjectInfo, Store
from seg_pipeline.store.opening import open_store

__all__ = ["ObjectInfo", "Store", "open_store"]
