"""The interface of every store, as the rest of the product uses it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol, TypeVar

T = TypeVar("T")

PIECE_BYTES = 256 * 1024
"""How long the pieces of a stream are, but for the last."""


@dataclass(frozen=True)
class ObjectInfo:
    """One object: its key, size in bytes, time of its last write (UTC), and entity tag if any."""

    key: str
    size: int
    last_modified: datetime
    etag: str | None = None

    @property
    def tag(self) -> str:
        """The store's entity tag, or one of time and size: another one after each write."""
        return self.etag or f"{self.size:x}-{int(self.last_modified.timestamp() * 1e6):x}"


def keep_none(_key: str) -> bool:
    """For `delete_folder`: keeps no object."""
    return False


class Store(Protocol):
    """Whole objects under `/`-separated keys.

    Every write is atomic: a reader sees the old object or the new one. All methods raise
    StoreUnavailable (or StoreFull) when the store fails, and ObjectNotFound for a missing key.
    """

    def put(self, key: str, data: bytes) -> None:
        """Writes or replaces the object. Its content type follows from the key's extension."""
        ...

    def put_file(self, key: str, file: BinaryIO) -> None:
        """Writes or replaces the object with the contents of a complete, open file of this machine.

        The file is never in memory as a whole. It may become the object itself, so do not write to
        it afterwards.
        """
        ...

    def create(self, key: str, data: bytes, *, lasting: bool = True) -> bool:
        """Writes the object if it does not exist yet. Returns whether it did.

        Of several callers only one gets True. With `lasting` off, a power cut may take it again.
        """
        ...

    def copy(self, key: str, target: str) -> None:
        """Writes or replaces the target with the object's bytes, which are not read here.

        The two may share them: each is deleted and replaced without the other.
        """
        ...

    def get(self, key: str) -> bytes:
        """The object's bytes."""
        ...

    def stream(self, key: str) -> Iterator[bytes]:
        """The object's bytes in pieces of `PIECE_BYTES`.

        A missing key raises at the call, not at the first piece.
        """
        ...

    def head(self, key: str) -> ObjectInfo | None:
        """The object's size, time and tag; None if there is none."""
        ...

    def list(
        self, prefix: str, after: str | None = None, limit: int | None = None
    ) -> list[ObjectInfo]:
        """The objects below the prefix (which ends in `/`), sorted by key.

        With `after`, only those with greater keys.
        """
        ...

    def count(self, prefix: str) -> int:
        """How many objects lie directly below the prefix; cheaper than listing them."""
        ...

    def list_folders(
        self, prefix: str, after: str | None = None, limit: int | None = None
    ) -> Sequence[str]:
        """The names directly below the prefix that have objects below them, sorted.

        They are names, not keys.
        """
        ...

    def delete(self, key: str) -> None:
        """Removes the object. A missing one is no error."""
        ...

    def delete_folder(self, prefix: str, keep: Callable[[str], bool] = keep_none) -> int:
        """Removes everything below the prefix (which ends in `/`). Returns how many objects.

        That includes the remains of half-written objects. Keys for which `keep` is true stay, also
        those that are written meanwhile.
        """
        ...

    def at_once(self, calls: Sequence[Callable[[], T]]) -> Sequence[T]:
        """The results of calls of the store's methods.

        They run side by side where each would wait for a network, else in turn. All have ended when
        it returns, or when it raises the error of the first failed call in the sequence.
        """
        ...

    def url(self, key: str, base_url: str) -> str:
        """Where a client finds an `assets/…` object: in the bucket, or below the API's address."""
        ...

    def file_name(self, key: str) -> str:
        """The name of an `assets/…` object in answers.

        It is the key in a bucket, or the path below `/assets/`.
        """
        ...

    def check(self) -> None:
        """Writes and reads back a small object. Raises StoreUnavailable if that fails."""
        ...
