"""The groups that a killed supervisor leaves behind are ended, and no others."""

import os
import signal

import pytest

from seg_pipeline.local.orphan_guard import end_groups, groups_left, signal_group
from seg_pipeline_tests.pauses import note_pauses


def test_the_guard_ends_only_groups_that_were_not_taken_back() -> None:
    assert groups_left(["+12\n", "+13\n", "-12\n", "+1"[:1]]) == {13}


@pytest.mark.parametrize("lines", [["+"], ["+1x\n"], ["\n"], [""]])
def test_a_line_that_was_cut_short_names_no_group(lines: list[str]) -> None:
    assert groups_left(["+7\n", *lines]) == {7}


def test_a_group_that_is_taken_back_unseen_is_no_error() -> None:
    assert groups_left(["-7\n"]) == set()


def test_groups_are_asked_first_and_killed_after_the_grace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "killpg", lambda group, number: sent.append((group, number)))
    end_groups({7}, grace_seconds=0)
    assert [number for _, number in sent if number] == [signal.SIGTERM, signal.SIGKILL]
    assert {group for group, _ in sent} == {7}


@pytest.mark.parametrize("error", [ProcessLookupError, PermissionError])
def test_a_group_that_has_gone_is_not_waited_for(
    error: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_group: int, _number: int) -> None:
        raise error

    monkeypatch.setattr(os, "killpg", gone)
    note_pauses(monkeypatch, lambda _: pytest.fail("waited for nobody"))
    assert not signal_group(7, 0)
    end_groups({7}, grace_seconds=60)
