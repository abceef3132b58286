"""The SHA-256 of a weights file, and the record of a downloaded one."""

import hashlib
from functools import lru_cache
from pathlib import Path

from seg_pipeline.errors import WeightsMissing


def weights_sha256(path: Path) -> str:
    """The file's SHA-256 as 64 hex digits, computed once for a path, size and time of writing."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


def verified(path: Path) -> Path:
    """The path, if the file still has the hash recorded at its download; else WeightsMissing."""
    record = record_of(path)
    if record.is_file() and record.read_text().split()[:1] != [weights_sha256(path)]:
        raise WeightsMissing(
            f"{path.name} is not the file that was downloaded: its SHA-256 differs from"
            f" {record.name}; delete both to download it again, or that record to keep your own"
            " file."
        )
    return path


def record_of(path: Path) -> Path:
    """Where the hash of a downloaded file is recorded."""
    return path.with_name(f"{path.name}.sha256")


@lru_cache(maxsize=32)
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
