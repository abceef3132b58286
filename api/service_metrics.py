"""The metrics of the whole service: the sum over all processes, and the state of the store."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from api.service import Service, in_probe_thread, in_thread
from seg_pipeline.errors import StoreError
from seg_pipeline.monitoring.service_state import ServiceState, read_service_state
from seg_pipeline.telemetry import metrics
from seg_pipeline.telemetry.snapshots import (
    MetricSnapshots,
    Reporter,
    Samples,
    add_up,
    current_samples,
)

CACHE_SECONDS = 2.0
SHARE_OF_TIME = 0.1
PATIENCE_SECONDS = 5.0
LAST_REPORT_SECONDS = 2.0

Gauge = tuple[str, str, Callable[[ServiceState], float]]

_PLAIN: Sequence[Gauge] = (
    ("seg_workers_alive", "Workers that gave a sign of life.", lambda state: state.workers),
    ("seg_runs_in_hand", "Workers that execute a run.", lambda state: state.runs_in_hand),
    (
        "seg_callbacks_due",
        "Callbacks whose time has come.",
        lambda state: state.callbacks_due.count,
    ),
    (
        "seg_callbacks_oldest_due_age_seconds",
        "How long the first of the callbacks that are due has been so.",
        lambda state: state.callbacks_due.oldest_seconds,
    ),
    (
        "seg_app_server_down_seconds",
        "How long the app server has been down; 0 if it answers or was not asked.",
        lambda state: state.app_server_down_seconds,
    ),
    (
        "seg_drained",
        "1 while an operator has drained the service, else 0.",
        lambda state: float(state.drain is not None),
    ),
)


def gauges_of(state: ServiceState) -> Iterator[Metric]:
    """The state as gauges."""
    for name, about, value in _PLAIN:
        yield GaugeMetricFamily(name, about, value=value(state))
    yield _by_label("seg_jobs", "Jobs that are not finished, by state.", "state", {
        "waiting": state.waiting.count, "in_flight": state.in_flight.count,
        "processing": state.processing,
    })  # fmt: skip
    yield _by_label("seg_oldest_job_age_seconds",
                    "How long the first of them has been in its state.", "state", {
        "waiting": state.waiting.oldest_seconds, "in_flight": state.in_flight.oldest_seconds,
    })  # fmt: skip
    yield _by_label("seg_parked", "What waits for a person, by kind.", "kind", {
        "message": state.parked_messages, "callback": state.parked_callbacks,
    })  # fmt: skip
    if state.prune:
        ended, failures = state.prune.ended_at.timestamp(), state.prune.failures
        yield GaugeMetricFamily(
            "seg_prune_ended_timestamp_seconds", "When the last prune ended.", value=ended
        )
        yield GaugeMetricFamily(
            "seg_prune_failures", "What the last prune could not remove.", value=failures
        )


def counts_of(total: Samples) -> Iterator[Metric]:
    """The sums as the families that this process knows; histogram buckets in order."""
    for family in metrics.REGISTRY.collect():
        names = {f"{family.name}{suffix}" for suffix in ("_total", "_bucket", "_sum", "_count")}
        summed = Metric(family.name, family.documentation, family.type)
        known = {key: value for key, value in total.items() if key[0] in names}
        for (name, labels), value in sorted(known.items(), key=lambda item: _in_order(*item[0])):
            summed.add_sample(name, dict(labels), value)
        yield summed


class ServiceMetrics:
    """Reads the store for one scrape at a time, at most every two seconds.

    While the store is unavailable, the last sums are served.
    """

    def __init__(self, service: Service) -> None:
        self._store = service.store
        self._stale_seconds = service.settings.worker_stale_seconds
        self._task: asyncio.Task[list[Metric]] | None = None
        self._begun = 0.0
        self._good_for = 0.0
        self._others: Samples | None = None
        self.reporter = Reporter(service.store, "api", service.settings.heartbeat_seconds)

    def begin(self) -> None:
        """Starts to report this process's metrics."""
        self.reporter.start()

    async def end(self) -> None:
        """Writes the last report, without waiting for a store that hangs."""
        task = asyncio.create_task(in_thread(self.reporter.close))
        await asyncio.wait({task}, timeout=LAST_REPORT_SECONDS)

    async def families(self) -> list[Metric]:
        """All metrics; without the store, only that it is unavailable and the last sums."""
        is_fresh = time.monotonic() - self._begun < self._good_for
        if self._task is None or (self._task.done() and not is_fresh):
            self._begun, self._good_for = time.monotonic(), CACHE_SECONDS
            self._task = asyncio.create_task(in_probe_thread(self._read))
        done, _ = await asyncio.wait({self._task}, timeout=PATIENCE_SECONDS)
        return self._task.result() if done else [store_up(False), *self._counts()]

    def _read(self) -> list[Metric]:
        try:
            gauges = [
                store_up(True),
                *gauges_of(read_service_state(self._store, self._stale_seconds)),
            ]
            self._others = MetricSnapshots(self._store).total(but=self.reporter.process)
        except StoreError:
            gauges = [store_up(False)]
        self._good_for = max(CACHE_SECONDS, (time.monotonic() - self._begun) / SHARE_OF_TIME)
        return [*gauges, *self._counts()]

    def _counts(self) -> Iterator[Metric]:
        """No sums before the other processes' were read: a fall would look like a restart."""
        if self._others is not None:
            yield from counts_of(add_up([self._others, current_samples()]))


def _by_label(name: str, about: str, label: str, values: dict[str, float]) -> Metric:
    family = GaugeMetricFamily(name, about, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def store_up(is_up: bool) -> Metric:
    """Whether the store can be read, as a gauge."""
    return GaugeMetricFamily(
        "seg_store_up", "1 if the store can be read, else 0.", value=float(is_up)
    )


def _in_order(name: str, labels: tuple[tuple[str, str], ...]) -> tuple[object, ...]:
    others = tuple(pair for pair in labels if pair[0] != "le")
    bound = dict(labels).get("le", "inf")
    return others, name, float(bound)
