"""Runs that are asked to give way."""

from seg_pipeline.jobs.giving_way import ask_to_give_way, is_to_give_way
from seg_pipeline.store import Store, keys


def test_a_run_gives_way_once_it_is_asked_to(store: Store) -> None:
    assert not is_to_give_way(store, "a")
    ask_to_give_way(store, ["a"], ["a", "b"])
    assert is_to_give_way(store, "a")
    assert not is_to_give_way(store, "b")


def test_who_was_asked_before_is_not_forgotten_while_it_is_under_way(store: Store) -> None:
    """A worker reads what it is asked between two calls of its model, perhaps much later."""
    ask_to_give_way(store, ["a"], ["a", "b"])
    ask_to_give_way(store, ["b"], ["a", "b"])
    assert [is_to_give_way(store, run) for run in ("a", "b")] == [True, True]
    ask_to_give_way(store, ["c"], ["b", "c"])
    assert [is_to_give_way(store, run) for run in ("a", "b", "c")] == [False, True, True]


def test_to_ask_nobody_or_the_same_again_writes_nothing(folder_store: Store) -> None:
    ask_to_give_way(folder_store, [], ["a"])
    assert folder_store.head(keys.GIVE_WAY_STATE) is None
    ask_to_give_way(folder_store, ["a"], ["a"])
    before = folder_store.head(keys.GIVE_WAY_STATE)
    ask_to_give_way(folder_store, ["a"], ["a"])
    assert folder_store.head(keys.GIVE_WAY_STATE) == before
