"""A store that does not do what it promises is found out, and nothing is left in it."""

from typing import Any

import pytest

from seg_pipeline.errors import StoreUnavailable
from seg_pipeline.store.checking import check_create, check_round_trip
from seg_pipeline.store.object_store import ObjectStore


class Untrue:
    """A store in memory of which one method does something else."""

    def __init__(self, **methods: Any) -> None:
        self.store = ObjectStore.in_memory()
        self.methods = methods

    def __getattr__(self, name: str) -> Any:
        return self.methods.get(name) or getattr(self.store, name)

    @property
    def leftovers(self) -> list[str]:
        return [info.key for info in self.store.list("checks/")]


def test_a_good_store_passes_and_keeps_nothing() -> None:
    store = Untrue()
    check_round_trip(store, "checks/")
    check_create(store, "checks/")
    assert store.leftovers == []


def test_other_bytes_than_were_written_are_a_fault() -> None:
    store = Untrue(get=lambda _key: b"other")
    with pytest.raises(StoreUnavailable, match="other bytes than were written"):
        check_round_trip(store, "checks/")
    assert store.leftovers == []


def test_a_write_that_is_not_there_is_a_fault_and_no_missing_object() -> None:
    with pytest.raises(StoreUnavailable, match="does not find what was just written"):
        check_round_trip(Untrue(put=lambda _key, _data: None), "checks/")


@pytest.mark.parametrize("answer", [True, False])
def test_a_store_that_always_says_the_same_of_a_create_is_a_fault(answer: bool) -> None:
    """Two jobs could share a uuid."""
    with pytest.raises(StoreUnavailable, match="ignores If-None-Match"):
        check_create(Untrue(create=lambda _key, _data: answer), "checks/")


def test_nothing_is_left_of_a_create_that_failed() -> None:
    store = Untrue()
    answers = iter([None, StoreUnavailable("away.")])

    def create(key: str, data: bytes) -> bool:
        if error := next(answers):
            raise error
        return store.store.create(key, data)

    store.methods["create"] = create
    with pytest.raises(StoreUnavailable, match="away"):
        check_create(store, "checks/")
    assert store.leftovers == []
