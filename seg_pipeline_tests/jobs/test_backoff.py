"""Pauses between tries."""

import pytest

from seg_pipeline.jobs.backoff import Backoff, doubling_pause, growing_pause


def test_a_pause_doubles_up_to_the_longest_and_is_none_without_a_failure() -> None:
    assert [doubling_pause(failures, 0.5, 30) for failures in (0, 1, 2, 3, 7, 5000)] == [
        *(0, 0.5, 1, 2, 30, 30)
    ]


def test_the_bound_doubles_up_to_the_longest() -> None:
    assert [growing_pause(failures, 600, lambda: 1) for failures in (1, 2, 3, 9, 10, 5000)] == [
        2,
        4,
        8,
        512,
        600,
        600,
    ]


def test_a_pause_lies_anywhere_between_a_second_and_its_bound() -> None:
    assert [growing_pause(4, 600, iter([share]).__next__) for share in (0.0, 0.5, 1.0)] == [
        1,
        8.5,
        16,
    ]


def test_what_never_failed_is_due() -> None:
    assert Backoff(30).wait_seconds(now=100) == 0


def test_each_failure_in_a_row_makes_the_wait_longer() -> None:
    backoff, waits = Backoff(30, lambda: 1), []
    for _ in range(6):
        backoff.failed(now=100)
        waits.append(backoff.wait_seconds(now=100))
    assert waits == [2, 4, 8, 16, 30, 30]
    assert backoff.wait_seconds(now=125) == 5
    assert backoff.wait_seconds(now=131) == 0


def test_a_longer_pause_may_be_asked_for() -> None:
    backoff = Backoff(30, lambda: 1)
    backoff.failed(now=100, at_least_seconds=45)
    assert backoff.wait_seconds(now=100) == pytest.approx(45)


def test_one_success_and_the_next_failure_is_a_first_one() -> None:
    backoff = Backoff(30, lambda: 1)
    for _ in range(4):
        backoff.failed(now=100)
    backoff.worked()
    assert (backoff.failures, backoff.wait_seconds(now=100)) == (0, 0)
    backoff.failed(now=100)
    assert backoff.wait_seconds(now=100) == 2
