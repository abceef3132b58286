"""The drain: for a while no waiting job gets a run, so that what is under way comes to an end."""

from dataclasses import dataclass
from datetime import datetime

from seg_pipeline.domain import Moment
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import load, write


@dataclass(frozen=True)
class Drain:
    """A drain that began at `since`. It ends by itself."""

    since: Moment
    until: Moment


def begin_drain(store: Store, drain: Drain) -> None:
    """Has no waiting job run until then; a drain before it is replaced."""
    store.put(keys.DRAIN_STATE, write(drain))


def end_drain(store: Store) -> None:
    """Lets jobs run again."""
    store.delete(keys.DRAIN_STATE)


def read_drain(store: Store, now: datetime) -> Drain | None:
    """The drain that is on; None if none is."""
    drain = load(store, Drain, keys.DRAIN_STATE)
    return drain if drain and now < drain.until else None
