"""Keeps what SAM-2's encoder made of a picture, so that a further prompt on it is quick.

The last few are in memory. All are in a folder that the workers of a machine share, since any of
them may get the next prompt.
"""

import hashlib
import logging
import os
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seg_pipeline.domain import RgbImage
from seg_pipeline.segmenters.kept_files import prune_folder

MEMORY_BYTES = 64 * 2**20
"""The most bytes of embeddings in a model's memory: four pictures of a published SAM-2."""

KEY_PARTS = 4
"""Of a picture, each with a digest of its own. The same everywhere, as is the key."""

SMALL_BYTES = 2**19
"""Up to here other threads take longer to wake than the digest takes."""

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SUFFIX = ".npz"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Embedding:
    """A picture as SAM-2's decoder takes it.

    `image` is `(1, c, h, w)`. `fine` are the features of four times and twice that size.
    """

    image: Tensor
    fine: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return sum(each.nbytes for each in (self.image, *self.fine))

    def to(self, device: torch.device | str) -> "Embedding":
        """The embedding on a device."""
        return Embedding(self.image.to(device), tuple(each.to(device) for each in self.fine))


def embedding_key(image: RgbImage, *made_by: str) -> str:
    """The name of a picture's embedding: SHA-256 of its pixels and of what computes it.

    Of a large picture that is most of a further prompt's time. So its parts go side by side.
    """
    digest = hashlib.sha256(repr((image.shape, made_by)).encode())
    parts = np.array_split(np.ascontiguousarray(image).reshape(-1), KEY_PARTS)
    side_by_side = image.nbytes > SMALL_BYTES
    for part in _threads(os.getpid()).map(_digest, parts) if side_by_side else map(_digest, parts):
        digest.update(part)
    return digest.hexdigest()


@cache
def _threads(pid: int) -> ThreadPoolExecutor:
    """The threads of this process. A forked one has none of its parent's."""
    return ThreadPoolExecutor(KEY_PARTS, "digest")


def _digest(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    return hashlib.sha256(pixels.data).digest()


class EmbeddingFolder:
    """Embeddings as files, at most `limit_bytes` of them, each for `seconds` after its last use.

    It may fail in any way without harm: then nothing is kept. A limit of 0 keeps nothing.
    """

    def __init__(
        self,
        path: Path,
        limit_bytes: int,
        seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path, self.limit_bytes, self.seconds = path, limit_bytes, seconds
        self._clock = clock

    def get(self, key: str) -> Embedding | None:
        """The embedding, whose time begins anew; None if it is not there or not whole."""
        path = self._path / f"{key}{_SUFFIX}"
        try:
            if self._is_old(path):
                return None
            embedding = _read(path)
            os.utime(path, (self._clock(), self._clock()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            logger.warning("a kept embedding cannot be read, and is computed anew: %s", error)
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        return embedding

    def put(self, key: str, embedding: Embedding) -> None:
        """Writes the embedding: all of it is there at once, or none of it."""
        if embedding.nbytes > self.limit_bytes or not self._path.parent.is_dir():
            return
        try:
            self._path.mkdir(mode=0o700, exist_ok=True)
            self._write(self._path / f"{key}{_SUFFIX}", embedding)
            self.prune()
        except OSError as error:
            logger.warning("an embedding could not be kept: %s", error)

    def prune(self) -> None:
        """Removes what is too old, and of the rest the longest unused beyond the limit."""
        prune_folder(self._path, self.limit_bytes, self._clock() - self.seconds)

    def _is_old(self, path: Path) -> bool:
        return path.stat().st_mtime < self._clock() - self.seconds

    def _write(self, path: Path, embedding: Embedding) -> None:
        with NamedTemporaryFile(dir=self._path, suffix=".part", delete=False) as file:
            part = Path(file.name)
            try:
                np.savez(file, **_arrays(embedding))
                file.flush()
                os.utime(part, (self._clock(), self._clock()))
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise


class EmbeddingCache:
    """The embeddings of one model: the last few in memory, before a folder.

    The folder's limits hold for memory too. For one caller at a time.
    """

    def __init__(
        self,
        folder: EmbeddingFolder | None = None,
        memory_bytes: int = MEMORY_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._clock = folder, clock
        self._memory_bytes = min(memory_bytes, folder.limit_bytes) if folder else memory_bytes
        self._seconds = folder.seconds if folder else float("inf")
        self._kept: OrderedDict[str, Embedding] = OrderedDict()
        self._used_at: dict[str, float] = {}

    def get(
        self, key: str, device: torch.device | str, make: Callable[[], Embedding]
    ) -> tuple[Embedding, str]:
        """The embedding on the device, and where it came from: `memory`, `disk` or `encoder`."""
        self._forget_old()
        kept = self._kept.get(key)
        if kept is not None:
            return self._remember(key, kept), "memory"
        read = self._folder.get(key) if self._folder else None
        if read is not None:
            return self._remember(key, read.to(device)), "disk"
        made = make()
        if self._folder:
            self._folder.put(key, made)
        return self._remember(key, made), "encoder"

    def clear(self) -> None:
        """Forgets what is in memory."""
        self._kept.clear()

    def _forget_old(self) -> None:
        oldest = self._clock() - self._seconds
        for key in [key for key in self._kept if self._used_at[key] < oldest]:
            del self._kept[key]

    def _remember(self, key: str, embedding: Embedding) -> Embedding:
        self._kept[key] = embedding
        self._kept.move_to_end(key)
        self._used_at = {key: at for key, at in self._used_at.items() if key in self._kept}
        self._used_at[key] = self._clock()
        while self._kept and sum(each.nbytes for each in self._kept.values()) > self._memory_bytes:
            self._kept.popitem(last=False)
        return embedding


def _arrays(embedding: Embedding) -> dict[str, Any]:
    """The tensors' bytes; a name tells the place and the precision, which numpy may not have."""
    tensors = (embedding.image, *embedding.fine)
    return {
        f"{place}-{str(each.dtype).removeprefix('torch.')}": each.cpu()
        .contiguous()
        .view(torch.uint8)
        .numpy()
        for place, each in enumerate(tensors)
    }


def _read(path: Path) -> Embedding:
    """The embedding in a file. Nothing in it is executed: pickled objects are refused."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        named = sorted(
            (int(place), precision, arrays[name])
            for name in arrays.files
            for place, _, precision in [name.partition("-")]
        )
    tensors = [
        torch.from_numpy(array).view(_PRECISIONS[precision]) for _, precision, array in named
    ]
    if len(tensors) != 3:
        raise ValueError(f"{path.name} has {len(tensors)} tensors instead of 3")
    return Embedding(tensors[0], tuple(tensors[1:]))
