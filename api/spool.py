"""Spools uploads to disk, in files without a name until they belong to a job."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from seg_pipeline.store.failures import translated

CHECK_EVERY_BYTES = 4 * 2**20


class Spool:
    """One upload's bytes as they come: written, counted and hashed.

    It is a context manager, and its contents end with it. The file has no name, so nothing is left
    behind however the process ends. The store may link it into its folders. Not thread-safe;
    blocking.
    """

    def __init__(self, folder: Path, check_space: Callable[[int], None]) -> None:
        self._folder, self._check_space = folder, check_space
        self._file: BinaryIO | None = None
        self._sha256 = hashlib.sha256()
        self._checked_at = 0
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._file:
            self._file.close()

    @property
    def sha256(self) -> str:
        """The SHA-256 of what has come, 64 hex digits."""
        return self._sha256.hexdigest()

    @property
    def file(self) -> BinaryIO:
        """The file, whose position is undefined."""
        if self._file is None:
            with translated("the upload"):
                self._file = open_nameless(self._folder)
        return self._file

    def write(self, data: bytes) -> None:
        """Writes the next bytes. Raises StoreFull, or Busy if too little space is left."""
        if self.size >= self._checked_at:
            self._check_space(len(data))
            self._checked_at = self.size + CHECK_EVERY_BYTES
        with translated("the upload"):
            view = memoryview(data)
            while view:
                view = view[self.file.write(view) :]
        self._sha256.update(data)
        self.size += len(data)


def open_nameless(folder: Path) -> BinaryIO:
    """A new file without a name in the folder, which is made if missing.

    It can be given a name where the system supports that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except (AttributeError, OSError):  # not on Linux, or a file system that does not do this
        return tempfile.TemporaryFile(dir=folder, buffering=0)
    return os.fdopen(descriptor, "r+b", buffering=0)
