"""What is counted of a fetch."""

import pytest

from seg_pipeline.errors import FetchRejected
from seg_pipeline.telemetry import metrics
from seg_pipeline.telemetry.snapshots import current_samples


def counted(name: str, **labels: str) -> float:
    """A sample's value so far."""
    return current_samples().get((name, tuple(sorted(labels.items()))), 0.0)


def test_a_fetch_is_counted_by_its_outcome() -> None:
    before = (
        counted("seg_fetches_total", outcome="fetched"),
        counted("seg_fetches_total", outcome="fetch_rejected"),
    )
    with metrics.fetching():
        pass
    with pytest.raises(FetchRejected), metrics.fetching():
        raise FetchRejected("the server answered 404.")
    assert counted("seg_fetches_total", outcome="fetched") == before[0] + 1
    assert counted("seg_fetches_total", outcome="fetch_rejected") == before[1] + 1
