import os
import time
from pathlib import Path

from seg_pipeline.segmenters.kept_files import embeddings_path, prune_embeddings, prune_folder
from seg_pipeline.settings import Settings


def put(folder: Path, name: str, used_at: float, size: int = 10) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(bytes(size))
    os.utime(folder / name, (used_at, used_at))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_old_files_go_and_of_the_others_the_longest_unused(tmp_path: Path) -> None:
    for name, used_at in (("old", 10), ("a", 20), ("b", 30), ("c", 40)):
        put(tmp_path, name, used_at)
    prune_folder(tmp_path, 25, 15)
    assert names(tmp_path) == ["b", "c"]


def test_a_missing_folder_is_no_error(tmp_path: Path) -> None:
    prune_folder(tmp_path / "none", 0, 0)
    (tmp_path / "file").write_text("no folder")
    prune_folder(tmp_path / "file", 0, 0)


def test_a_worker_removes_embeddings_whose_time_is_over(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path, embedding_seconds=60)
    put(embeddings_path(settings), "old", time.time() - 61)
    put(embeddings_path(settings), "new", time.time() - 30)
    prune_embeddings(settings)
    assert names(embeddings_path(settings)) == ["new"]
