"""Runs that are to give way: one small file, which the sensor writes and the workers read.

A run of many jobs gives way between two calls of the model. The jobs that it has not begun wait
again. The run ends soon, and its worker takes the next.
"""

from collections.abc import Collection
from dataclasses import dataclass

from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import load, write


@dataclass(frozen=True)
class _GivingWay:
    run_ids: tuple[str, ...] = ()


def ask_to_give_way(store: Store, run_ids: Collection[str], under_way: Collection[str]) -> None:
    """Has runs give way; of those that were asked before, the ones under way still are."""
    if not run_ids:
        return
    before = _read(store).run_ids
    if set(run_ids) <= set(before):
        return
    giving_way = {*run_ids, *(set(before) & set(under_way))}
    store.put(keys.GIVE_WAY_STATE, write(_GivingWay(tuple(sorted(giving_way)))))


def is_to_give_way(store: Store, run_id: str) -> bool:
    """Whether the run is to give way."""
    return run_id in _read(store).run_ids


def _read(store: Store) -> _GivingWay:
    return load(store, _GivingWay, keys.GIVE_WAY_STATE) or _GivingWay()
