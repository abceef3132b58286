"""How a worker ends: at once when it has nothing in hand."""

import os
from types import SimpleNamespace

import pytest

from seg_pipeline import worker


class Gone(BaseException):
    """What ends a process at once."""


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens to a child whose ends are replaced."""
    told: list[str] = []

    def leave(code: int) -> None:
        told.append(f"left with {code}")
        raise Gone

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(worker, "child", SimpleNamespace(pulse=SimpleNamespace(stop=lambda: told.append("beat gone"))))
    return told


def test_a_child_that_ended_well_takes_its_beat_away_and_goes_at_once(story: list[str]) -> None:
    """Else the pool has it sleep for a second."""
    with pytest.raises(Gone):
        worker._end_child(pid=1, exitcode=0)
    assert story == ["beat gone", "left with 0"]


def test_of_a_child_that_failed_the_pool_hears(story: list[str]) -> None:
    worker._end_child(pid=1, exitcode=1)
    assert story == ["beat gone"]


def test_a_worker_that_has_stopped_does_not_wait_for_sleeping_threads(
    story: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "make_worker", lambda: SimpleNamespace(worker_main=lambda _: story.append("stopped")))
    monkeypatch.setattr("logging.shutdown", lambda: story.append("log written"))
    with pytest.raises(Gone):
        worker.main()
    assert story == ["stopped", "log written", "left with 0"]
