"""The search for leftovers: what no marker leads to, so that it would never expire.

An acceptance or a deletion that died half way leaves some. To find them all that is kept must be
looked at, and to do so at once would cost more with every job that lives. So the search goes round:
each prune looks at the next names, a fixed number of them, and the store remembers where it stands.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from seg_pipeline.domain import JobStatus, Moment
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import load, write

Part = tuple[Sequence[str], str | None]
"""The next names of a place, and the cursor for those that follow."""


@dataclass(frozen=True)
class Place:
    """Where to search. `part(cursor, limit)` gives names in an order that stays, from the first
    where the cursor is None, and fewer than `limit` at the end alone; `leftovers` picks from
    them."""

    name: str
    part: Callable[[str | None, int], Part]
    leftovers: Callable[[Sequence[str]], list[str]]


@dataclass(frozen=True)
class SearchRound:
    """How far a round has come: through all places before `place`, and there up to `cursor`."""

    began_at: Moment
    place: str | None = None
    cursor: str | None = None
    searched: int = 0
    former_ended_at: Moment | None = None


@dataclass(frozen=True)
class Found:
    """What a part of a round found, by place; how many names it looked at; where it ended."""

    leftovers: Mapping[str, list[str]]
    searched: int
    next: SearchRound


def search(places: Sequence[Place], begun: SearchRound, limit: int, now: datetime) -> Found:
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


def _rest(places: Sequence[Place], begun: SearchRound) -> Sequence[Place]:
    """The places from that on where the round stands; all if it is none of them."""
    names = [place.name for place in places]
    return places[names.index(begun.place) if begun.place in names else 0 :]


def places_of(repository: JobRepository, older_than: datetime) -> list[Place]:
    """A job's files, and the marks of its end; what was touched since `older_than` is left."""

    def orphans(uuids: Sequence[str]) -> list[str]:
        calls = [partial(repository.expiry.is_orphan, uuid, older_than) for uuid in uuids]
        answers = repository.store.at_once(calls)
        return [uuid for uuid, is_orphan in zip(uuids, answers, strict=True) if is_orphan]

    done = [keys.done(outcome, "") for outcome in (JobStatus.COMPLETED, JobStatus.FAILED)]
    return [
        Place(keys.ASSETS, partial(_folders, repository.store), orphans),
        *(Place(prefix, partial(_names, repository.store, prefix), orphans) for prefix in done),
    ]


def _folders(store: Store, cursor: str | None, limit: int) -> Part:
    names = store.list_folders(keys.ASSETS, cursor, limit)
    return names, names[-1] if names else cursor


def _names(store: Store, prefix: str, cursor: str | None, limit: int) -> Part:
    infos = store.list(prefix, f"{prefix}{cursor}" if cursor else None, limit)
    names = [info.key.removeprefix(prefix) for info in infos]
    return names, names[-1] if names else cursor


def read_round(store: Store, now: datetime) -> SearchRound:
    """Where the search stands; at its beginning if nothing is known of it."""
    return load(store, SearchRound, keys.LEFTOVERS_STATE) or SearchRound(now)


def note_round(store: Store, stands: SearchRound) -> None:
    """Has the next search go on from there; call it once that is removed which was found before."""
    store.put(keys.LEFTOVERS_STATE, write(stands))
