"""Markers' names: times that sort and lose nothing."""

from datetime import UTC, datetime, timedelta

from seg_pipeline.jobs.markers import each_marker, marker_name, microseconds
from seg_pipeline.store import Store
from seg_pipeline_tests.builders import NOON


def test_a_time_is_whole_microseconds_since_the_epoch() -> None:
    assert microseconds(datetime.fromtimestamp(0, UTC) + timedelta(microseconds=7)) == 7
    last = datetime(2100, 1, 1, 12, 0, 0, 999_999, tzinfo=UTC)
    assert datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds(last)) == last
    assert microseconds(NOON + timedelta(microseconds=1)) == microseconds(NOON) + 1


def test_markers_are_listed_a_page_at_a_time_from_where_one_wants(store: Store) -> None:
    for name in ("c", "a", "b"):
        store.put(f"inbox/{name}", b"")
    assert [marker_name(info) for info in each_marker(store, "inbox/")] == ["a", "b", "c"]
    assert [marker_name(info) for info in each_marker(store, "inbox/", "a")] == ["b", "c"]
