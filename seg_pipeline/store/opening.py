"""Opens the store of the settings."""

from seg_pipeline.settings import Settings
from seg_pipeline.store.folder_store import FolderStore
from seg_pipeline.store.objects import Store


def open_store(settings: Settings) -> Store:
    """The bucket if one is set, else the folders.

    Nothing is written or requested before `check`.
    """
    if settings.s3_bucket:
        from seg_pipeline.store.object_store import ObjectStore

        return ObjectStore.in_bucket(settings)
    return FolderStore(
        assets=settings.assets_path.resolve(), state=(settings.data_dir / "state").resolve()
    )
