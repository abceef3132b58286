"""Reads the files of a job by their names, as exports do."""

from collections.abc import Iterator
from dataclasses import dataclass

from seg_pipeline.store import Store, keys


@dataclass(frozen=True)
class JobFiles:
    """The files of one job in the store."""

    store: Store
    uuid: str

    def get(self, name: str) -> bytes:
        """The whole file. Raises ObjectNotFound."""
        return self.store.get(keys.asset(self.uuid, name))

    def stream(self, name: str) -> Iterator[bytes]:
        """The file in pieces. Raises ObjectNotFound at the call."""
        return self.store.stream(keys.asset(self.uuid, name))
