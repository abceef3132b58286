"""Where the weights of a model are, and how they come there."""

import hashlib
from functools import lru_cache
from pathlib import Path

from seg_pipeline.errors import WeightsMissing
from seg_pipeline.settings import Settings

BUNDLED = Path(__file__).parent.parent / "demo" / "weights"


def find_weights(name: str, settings: Settings) -> Path:
    """The file with the weights of a model."""
    places = [BUNDLED / f"{name}.pt", settings.weights_dir / f"{name}.pt"]
    if name in settings.models:
        places.append(Path(name))
    for path in places:
        if path.is_file():
            return path
    raise WeightsMissing(f"the weights of {name} are in none of {', '.join(map(str, places))}.")


def weights_sha256(path: Path) -> str:
    """The file's SHA-256 as 64 hex digits; computed once for a path, size and time of writing."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=32)
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
