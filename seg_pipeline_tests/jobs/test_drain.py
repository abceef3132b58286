"""The drain: on for a while, then over by itself or by an operator."""

from datetime import timedelta

from seg_pipeline.jobs.drain import Drain, begin_drain, end_drain, read_drain
from seg_pipeline.store import Store
from seg_pipeline_tests.builders import NOON

HOUR = timedelta(hours=1)


def test_a_drain_is_on_until_its_time_is_over(store: Store) -> None:
    drain = Drain(NOON, NOON + HOUR)
    begin_drain(store, drain)
    assert read_drain(store, NOON + HOUR - timedelta(seconds=1)) == drain
    assert read_drain(store, NOON + HOUR) is None


def test_a_drain_can_be_made_longer_and_ended(store: Store) -> None:
    begin_drain(store, Drain(NOON, NOON + HOUR))
    begin_drain(store, Drain(NOON, NOON + 2 * HOUR))
    assert read_drain(store, NOON + HOUR) == Drain(NOON, NOON + 2 * HOUR)
    end_drain(store)
    end_drain(store)
    assert read_drain(store, NOON) is None
