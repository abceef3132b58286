"""What a process needs is there before it starts, waited for, or named in one sentence."""

from pathlib import Path
from typing import Any

import pytest

from seg_pipeline.runtime import preparation
from seg_pipeline.runtime.preparation import (
    STEPS,
    NotReady,
    Unusable,
    check_broker,
    check_store,
    make_ready,
    make_tables_ready,
    make_weights_ready,
)
from seg_pipeline.settings import Settings
from seg_pipeline.store import keys, open_store
from seg_pipeline_tests.given_settings import GivenSettings


def make_settings(folder: Path, **values: Any) -> Settings:
    return GivenSettings(**{"data_dir": folder / "data", "model": "demo-yolo", **values})


class Step:
    """A step that fails so many times."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls = 0

    def __call__(self, _settings: Settings) -> None:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "PAUSE_SECONDS", 0)


def test_a_server_that_does_not_answer_yet_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Step(NotReady("not yet"), NotReady("not yet"))
    monkeypatch.setitem(STEPS, "store", step)
    make_ready(["store"], make_settings(tmp_path))
    assert step.calls == 3


def test_patience_ends_with_the_last_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Step(NotReady("first"), NotReady("second"))
    monkeypatch.setitem(STEPS, "store", step)
    monkeypatch.setattr(preparation, "PATIENCE_SECONDS", 0)
    with pytest.raises(NotReady, match="first"):
        make_ready(["store"], make_settings(tmp_path))
    assert step.calls == 1


def test_what_waiting_does_not_mend_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Step(Unusable("never"), Unusable("never"))
    monkeypatch.setitem(STEPS, "store", step)
    with pytest.raises(Unusable):
        make_ready(["store"], make_settings(tmp_path))
    assert step.calls == 1


def test_steps_are_taken_in_order_and_none_after_one_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last = Step(Unusable("never")), Step()
    monkeypatch.setitem(STEPS, "broker", first)
    monkeypatch.setitem(STEPS, "store", last)
    with pytest.raises(Unusable):
        make_ready(["broker", "store"], make_settings(tmp_path))
    assert (first.calls, last.calls) == (1, 0)


def test_a_folder_as_broker_needs_no_check(tmp_path: Path) -> None:
    check_broker(make_settings(tmp_path))


def test_a_broker_that_is_not_there_is_named_without_its_password(
    tmp_path: Path, free_tcp_port: int
) -> None:
    url = f"redis://user:sesame@127.0.0.1:{free_tcp_port}/0"
    with pytest.raises(NotReady) as refusal:
        check_broker(make_settings(tmp_path, broker_url=url))
    assert f"the broker at 127.0.0.1:{free_tcp_port} cannot be used" in str(refusal.value)
    assert "set BROKER_URL" in str(refusal.value)
    assert "sesame" not in str(refusal.value)
    assert not isinstance(refusal.value, Unusable)


def test_a_database_that_is_not_there_may_come_and_is_named_without_its_password(
    tmp_path: Path, free_tcp_port: int
) -> None:
    url = f"postgresql://user:sesame@127.0.0.1:{free_tcp_port}/dagster"
    with pytest.raises(NotReady) as refusal:
        make_tables_ready(make_settings(tmp_path, database_url=url))
    assert f"the database at 127.0.0.1:{free_tcp_port} cannot be used" in str(refusal.value)
    assert "sesame" not in str(refusal.value)
    assert not isinstance(refusal.value, Unusable)


def test_an_empty_store_can_be_used(tmp_path: Path) -> None:
    check_store(make_settings(tmp_path))


def test_a_store_of_a_newer_version_is_not_waited_for(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    open_store(settings).put(keys.FORMAT, b'{"format": 99, "written_by": "9.1"}')
    with pytest.raises(Unusable, match="format 99"):
        check_store(settings)


def test_weights_that_are_nowhere_are_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match=r"gone\.pt are not there"):
        make_weights_ready(make_settings(tmp_path, model=str(tmp_path / "gone.pt")))


def test_the_queues_model_is_needed_only_where_there_is_a_queue(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.pt")
    make_weights_ready(make_settings(tmp_path, queue_model=gone))
    with pytest.raises(Unusable, match=r"gone\.pt are not there"):
        make_weights_ready(
            make_settings(tmp_path, queue_model=gone, sqs_queue_url="https://sqs.example/q")
        )
