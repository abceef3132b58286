"""What Prometheus reads of the service as a whole."""

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from seg_pipeline.errors import StoreUnavailable
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.monitoring.service_state import (
    AppServerState,
    PruneState,
    note_app_server_state,
    note_prune,
)
from seg_pipeline.store import Store
from seg_pipeline.telemetry.snapshots import MetricSnapshots, Snapshot
from seg_pipeline_tests.api.serving import Serve
from seg_pipeline_tests.api.stand_ins import FailingStore, heartbeat
from seg_pipeline_tests.builders import make_job
from seg_pipeline_tests.jobs.test_parked import park_callback

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scrape looks."""
    monkeypatch.setattr("api.service_metrics.CACHE_SECONDS", 0.0)
    monkeypatch.setattr("api.service_metrics.SHARE_OF_TIME", 1e9)


def scrape(client: httpx.Client) -> Samples:
    """Every sample, by name and labels; the text is what Prometheus' own parser reads."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.text)
    return {
        (each.name, frozenset(each.labels.items())): each.value
        for family in families
        for each in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    """One sample; None if there is none."""
    return samples.get((name, frozenset(labels.items())))


def _snapshot(process: str, samples: dict[Any, float]) -> Snapshot:
    return Snapshot(process=process, written_at=datetime.now(UTC), samples=samples)


def test_counts_of_all_processes_are_added_up(serve: Serve, api_store: Store) -> None:
    client = serve()
    before = value(scrape(client), "seg_jobs_accepted_total", via="sqs") or 0
    key = ("seg_jobs_accepted_total", (("via", "sqs"),))
    MetricSnapshots(api_store).write(_snapshot("code-server-1", {key: 4}))
    MetricSnapshots(api_store).write(_snapshot("code-server-2", {key: 3}))
    assert value(scrape(client), "seg_jobs_accepted_total", via="sqs") == before + 7


def test_gauges_say_how_the_service_stands(serve: Serve, api_store: Store) -> None:
    JobRepository(api_store).acceptance.accept(make_job("a", image_url="https://example.com/x.png"))
    park_callback(api_store)
    heartbeat(api_store)
    note_prune(api_store, PruneState(datetime.fromtimestamp(1000, UTC), 2))
    note_app_server_state(api_store, AppServerState(datetime.fromtimestamp(1000, UTC), "away"))
    samples = scrape(serve())
    assert value(samples, "seg_store_up") == 1
    assert value(samples, "seg_workers_alive") == 1
    assert value(samples, "seg_jobs", state="waiting") == 1
    assert value(samples, "seg_parked", kind="callback") == 1
    assert value(samples, "seg_parked", kind="message") == 0
    assert value(samples, "seg_prune_ended_timestamp_seconds") == 1000
    assert value(samples, "seg_prune_failures") == 2
    assert (value(samples, "seg_app_server_down_seconds") or 0) > 1e6


def test_a_store_that_is_away_is_a_figure_and_counters_stay(serve: Serve, api_store: Store) -> None:
    """Else an outage of the store would look like a restart of every process."""
    failing = FailingStore(api_store)
    client = serve(failing)
    key = ("seg_jobs_accepted_total", (("via", "sqs"),))
    MetricSnapshots(api_store).write(_snapshot("code-server-1", {key: 4}))
    before = scrape(client)
    failing.error, failing.fails_on = StoreUnavailable("away"), lambda _key: True
    during = scrape(client)
    assert value(during, "seg_store_up") == 0
    assert value(during, "seg_jobs", state="waiting") is None
    assert value(during, "seg_jobs_accepted_total", via="sqs") == value(
        before, "seg_jobs_accepted_total", via="sqs"
    )
    assert value(during, "seg_api_requests_under_way") is not None


def test_histograms_are_whole(serve: Serve, api_store: Store) -> None:
    """Buckets grow with their bounds, and the last is the count: else quantiles are nonsense."""
    samples = scrape(serve())
    buckets = [
        (float(dict(labels)["le"]), count)
        for (name, labels), count in samples.items()
        if name == "seg_callback_seconds_bucket"
    ]
    counts = [count for _, count in sorted(buckets)]
    assert len(counts) > 5
    assert counts == sorted(counts)
    assert counts[-1] == value(samples, "seg_callback_seconds_count")
