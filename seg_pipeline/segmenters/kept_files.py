"""A folder of files that are kept for a while, within a limit of bytes. It loads no model."""

import time
from contextlib import suppress
from pathlib import Path

from seg_pipeline.settings import Settings


def embeddings_path(settings: Settings) -> Path:
    """The embeddings that the workers of this machine share."""
    return settings.data_dir / "embeddings"


def prune_embeddings(settings: Settings) -> None:
    """Removes the embeddings whose time is over. It costs next to nothing, so call it often."""
    prune_folder(
        embeddings_path(settings),
        settings.embedding_bytes,
        time.time() - settings.embedding_seconds,
    )


def prune_folder(path: Path, limit_bytes: int, oldest: float) -> None:
    """Removes files last used before `oldest`, and of the rest the longest unused beyond the limit.

    A file's time of modification is that of its last use, in epoch seconds.
    """
    room = limit_bytes
    for file, used_at, size in _newest_first(path):
        room -= size
        if room < 0 or used_at < oldest:
            with suppress(OSError):
                file.unlink(missing_ok=True)


def _newest_first(path: Path) -> list[tuple[Path, float, int]]:
    found = []
    with suppress(FileNotFoundError, NotADirectoryError):
        for file in path.iterdir():
            with suppress(FileNotFoundError):
                info = file.stat()
                found.append((file, info.st_mtime, info.st_size))
    return sorted(found, key=lambda each: -each[1])
