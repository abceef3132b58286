"""The interface of every store, as the rest of the product uses it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class ObjectInfo:
    """One object: its key, size in bytes, time of its last write (UTC) and entity tag, if the store
    has one."""

    key: str
    size: int
    last_modified: datetime
    etag: str | None = None


def keep_none(_key: str) -> bool:
    """For `delete_folder`: everything goes."""
    return False


class Store(Protocol):
    """Whole objects under `/`-separated keys. Every write is atomic: a reader sees the old object
    or the new one.

    Raises StoreUnavailable (or StoreFull) when the store does not do its part, ObjectNotFound for a
    missing key.
    """

    def put(self, key: str, data: bytes) -> None:
        """Writes or replaces; the content type follows from the key's extension."""
        ...

    def put_file(self, key: str, file: BinaryIO) -> None:
        """Writes or replaces with what the file (of this machine, open and complete) holds; it is
        not in memory at once. The file may become the object itself: nothing may be written to it
        afterwards."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Writes if there is no such object yet; says whether it did. Of several callers one alone
        gets True."""
        ...

    def get(self, key: str) -> bytes:
        """The object's bytes."""
        ...

    def stream(self, key: str) -> Iterator[bytes]:
        """The object's bytes in pieces of some 256 KiB; a missing key raises at the call, not at
        the first piece."""
        ...

    def head(self, key: str) -> ObjectInfo | None:
        """What is known of the object, or None if there is none."""
        ...

    def list(
        self, prefix: str, after: str | None = None, limit: int | None = None
    ) -> list[ObjectInfo]:
        """Objects whose keys begin with the prefix (which ends in `/`), sorted by key, those past
        `after` alone."""
        ...

    def count(self, prefix: str) -> int:
        """How many objects lie directly below the prefix; cheaper than listing them."""
        ...

    def list_folders(
        self, prefix: str, after: str | None = None, limit: int | None = None
    ) -> Sequence[str]:
        """The names directly below the prefix that have objects below them, sorted; names, not
        keys."""
        ...

    def delete(self, key: str) -> None:
        """Removes the object; a missing one is no error."""
        ...

    def delete_folder(self, prefix: str, keep: Callable[[str], bool] = keep_none) -> int:
        """Removes all below the prefix (ends in `/`) and what half-written objects left there; how
        many objects.

        Keys of which `keep` is true stay, also those that are written meanwhile. Without it all
        goes.
        """
        ...

    def at_once(self, calls: Sequence[Callable[[], T]]) -> Sequence[T]:
        """What calls of the store's methods give; side by side where each would wait for a network,
        else in turn.

        All of them have ended when it returns or raises what the first in the sequence that failed
        did.
        """
        ...

    def url(self, key: str, base_url: str) -> str:
        """Where a client finds an `assets/…` object: in the bucket, or below the API's address."""
        ...

    def file_name(self, key: str) -> str:
        """The name of an `assets/…` object in answers: its key in the bucket, or its path below
        `/assets/`."""
        ...

    def check(self) -> None:
        """Returns if a small object can be written and read back; raises StoreUnavailable if
        not."""
        ...
