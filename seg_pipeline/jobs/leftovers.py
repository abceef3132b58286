"""The search for leftovers: files that no marker leads to, which would never expire.

An acceptance or a deletion that died half way leaves some. To find them, everything in the store
must be looked at. All at once, this would cost more with every job that lives. So the search goes
round: each prune looks at a fixed number of names. The store remembers how far it came.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from seg_pipeline.domain import Moment
from seg_pipeline.jobs.records import OUTCOMES
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import load, write

Part = tuple[Sequence[str], str | None]
"""The next names of a place, and the cursor for those that follow."""


@dataclass(frozen=True)
class SearchPlace:
    """Where to search.

    `part(cursor, limit)` gives names in an order that stays; without a cursor, from the first on.
    Only at the end does it give fewer than `limit`. `leftovers` picks from the names.
    """

    name: str
    part: Callable[[str | None, int], Part]
    leftovers: Callable[[Sequence[str]], list[str]]


@dataclass(frozen=True)
class SearchRound:
    """How far a round has come: through all places before `place`, in it up to `cursor`."""

    began_at: Moment
    place: str | None = None
    cursor: str | None = None
    searched: int = 0
    former_ended_at: Moment | None = None


@dataclass(frozen=True)
class Found:
    """What a part of a round found by place, how many names it looked at, and where it ended."""

    leftovers: Mapping[str, list[str]]
    searched: int
    next: SearchRound


def search(places: Sequence[SearchPlace], begun: SearchRound, limit: int, now: datetime) -> Found:
    """Looks at the next `limit` names; fewer where the round ends with them."""
    found: dict[str, list[str]] = {place.name: [] for place in places}
    left, cursor = limit, begun.cursor
    for place in _rest(places, begun):
        names, cursor = place.part(cursor, left)
        found[place.name] = place.leftovers(names)
        left -= len(names)
        if left <= 0:
            searched = begun.searched + limit
            return Found(
                found, limit, replace(begun, place=place.name, cursor=cursor, searched=searched)
            )
        cursor = None
    return Found(found, limit - left, SearchRound(now, former_ended_at=now))


def _rest(places: Sequence[SearchPlace], begun: SearchRound) -> Sequence[SearchPlace]:
    """The places from the round's on; all of them if its place is unknown."""
    names = [place.name for place in places]
    return places[names.index(begun.place) if begun.place in names else 0 :]


def places_of(repository: JobRepository, older_than: datetime) -> list[SearchPlace]:
    """Jobs' files, and the markers of their ends; those touched since `older_than` are left."""

    def orphans(uuids: Sequence[str]) -> list[str]:
        calls = [partial(repository.expiry.is_orphan, uuid, older_than) for uuid in uuids]
        answers = repository.store.at_once(calls)
        return [uuid for uuid, is_orphan in zip(uuids, answers, strict=True) if is_orphan]

    done = [keys.done(outcome, "") for outcome in OUTCOMES]
    return [
        SearchPlace(keys.ASSETS, partial(_folders, repository.store), orphans),
        *(
            SearchPlace(prefix, partial(_names, repository.store, prefix), orphans)
            for prefix in done
        ),
    ]


def _folders(store: Store, cursor: str | None, limit: int) -> Part:
    names = store.list_folders(keys.ASSETS, cursor, limit)
    return names, names[-1] if names else cursor


def _names(store: Store, prefix: str, cursor: str | None, limit: int) -> Part:
    infos = store.list(prefix, f"{prefix}{cursor}" if cursor else None, limit)
    names = [info.key.removeprefix(prefix) for info in infos]
    return names, names[-1] if names else cursor


def read_round(store: Store, now: datetime) -> SearchRound:
    """Where the search stands; at its beginning if no state can be read."""
    return load(store, SearchRound, keys.LEFTOVERS_STATE) or SearchRound(now)


def note_round(store: Store, stands: SearchRound) -> None:
    """Has the next search go on from there; call it once the found leftovers are removed."""
    store.put(keys.LEFTOVERS_STATE, write(stands))
