"""The notes on what is parked; `parked` reads them and acts on them."""

from dataclasses import dataclass
from typing import Annotated

from seg_pipeline.domain import Moment
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import OPTIONAL, write


@dataclass(frozen=True, kw_only=True)
class ParkedNote:
    """Why something is parked.

    A message has its `body`, which is whole unless `is_cut`. The others have their job's `uuid`.
    """

    uuid: Annotated[str | None, OPTIONAL] = None
    message_id: Annotated[str | None, OPTIONAL] = None
    code: Annotated[str | None, OPTIONAL] = None
    reason: str = "the note on it cannot be read"
    body: Annotated[str | None, OPTIONAL] = None
    is_cut: Annotated[bool | None, OPTIONAL] = None
    parked_at: Annotated[Moment | None, OPTIONAL] = None


def park(store: Store, name: str, note: ParkedNote) -> None:
    """Leaves the note under a name."""
    store.put(keys.parked(name), write(note))
