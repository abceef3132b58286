"""The API's metrics: requests by route, their time, and how many are in progress.

No label names a job.
"""

from collections.abc import Iterator, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST

_BUCKETS = (0.005, 0.02, 0.1, 0.3, 0.5, 0.8, 1.5, 3, 10, 30, 60, 120)


class Metrics:
    """One app's metrics, in a registry of their own: two apps in a process do not collide."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "seg_api_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "seg_api_request_seconds",
            "From the request's head to the answer's end, waiting included.",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self.under_way = Gauge(
            "seg_api_requests_under_way", "Requests being answered.", registry=self._registry
        )
        self.waiting = Gauge(
            "seg_api_requests_waiting", "Requests waiting for a result.", registry=self._registry
        )
        self.listeners = Gauge(
            "seg_api_listeners", "Listeners to jobs' events.", registry=self._registry
        )

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts an answered request; `route` is the route's template, never the path."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def families(self) -> Iterator[Metric]:
        """This process's metrics of the API."""
        return (each for each in self._registry.collect() if each.name.startswith("seg_"))

    def exposition(self, of_service: Sequence[Metric] = ()) -> bytes:
        """What Prometheus scrapes: this process's metrics, and those of the whole service."""
        return generate_latest(self._registry) + generate_latest(_Collected(of_service))


class _Collected(CollectorRegistry):
    """A registry of metrics that were collected already."""

    def __init__(self, families: Sequence[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families
