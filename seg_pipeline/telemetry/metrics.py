"""The metrics of every process. `snapshots` adds them up, and the API serves the sums.

A count is one call: `metrics.FETCHES.labels("fetched").inc()`, or
`metrics.STAGE_SECONDS.labels("cutouts").observe(0.2)`. No label names a job, a client or an
address, so the number of series stays small.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram

from seg_pipeline.errors import Fault, SegPipelineError, codes_of

REGISTRY = CollectorRegistry()
"""The metrics of this process only."""

_QUICK = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 15, 60, 300)
_PATIENT = (0.1, 0.3, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600)

JOBS_ACCEPTED = Counter(
    "seg_jobs_accepted", "Jobs accepted, by way in.", ("via",), registry=REGISTRY
)
JOBS_FINISHED = Counter(
    "seg_jobs_finished",
    "Jobs finished, by status, error code, whose fault it was (client or ours), model and way in.",
    ("status", "code", "fault", "model", "via"),
    registry=REGISTRY,
)
OWN_FAILURES = Counter(
    "seg_own_failures",
    "Jobs that failed by a fault of ours, by error code.",
    ("code",),
    registry=REGISTRY,
)
JOB_SECONDS = Histogram(
    "seg_job_seconds",
    "From a job's acceptance to its end, waiting included.",
    ("status", "via"),
    buckets=_PATIENT,
    registry=REGISTRY,
)
STAGE_SECONDS = Histogram(
    "seg_stage_seconds",
    "What a stage took for one job.",
    ("stage",),
    buckets=_QUICK,
    registry=REGISTRY,
)
MODEL_SECONDS = Histogram(
    "seg_model_seconds",
    "What a model took for one picture.",
    ("model",),
    buckets=_QUICK,
    registry=REGISTRY,
)
MODEL_LOAD_SECONDS = Histogram(
    "seg_model_load_seconds",
    "What loading a model took.",
    ("model",),
    buckets=_PATIENT,
    registry=REGISTRY,
)
RUNS_LOST = Counter(
    "seg_runs_lost",
    "Runs that recovery closed, by cause: worker_lost (it died, or made no progress), not_taken, or"
    " process_lost (of upkeep).",
    ("cause",),
    registry=REGISTRY,
)
CALLBACKS = Counter(
    "seg_callbacks",
    "Attempts to tell the app server, by outcome: delivered, retried (it will be told again) or"
    " parked.",
    ("outcome",),
    registry=REGISTRY,
)
CALLBACK_SECONDS = Histogram(
    "seg_callback_seconds",
    "What one attempt to tell the app server took.",
    buckets=_QUICK,
    registry=REGISTRY,
)
QUEUE_MESSAGES = Counter(
    "seg_queue_messages", "Messages taken from the queue, by outcome: accepted or parked.",
    ("outcome",),
    registry=REGISTRY,
)  # fmt: skip
FETCHES = Counter(
    "seg_fetches",
    "Attempts to fetch a picture, by outcome: fetched, or the code of the error.",
    ("outcome",),
    registry=REGISTRY,
)
FETCH_SECONDS = Histogram(
    "seg_fetch_seconds",
    "What one attempt to fetch a picture took.",
    buckets=_PATIENT,
    registry=REGISTRY,
)
ALERTS_SENT = Counter(
    "seg_alerts_sent",
    "Messages to ALERT_WEBHOOK_URL, by outcome: sent or failed.",
    ("outcome",),
    registry=REGISTRY,
)

# A rate needs a first value, so known label values are present from the start, at 0.
for _counter, _values in {
    JOBS_ACCEPTED: ("http", "sqs"),
    CALLBACKS: ("delivered", "retried", "parked"),
    QUEUE_MESSAGES: ("accepted", "parked"),
    FETCHES: ("fetched",),
    ALERTS_SENT: ("sent", "failed"),
    OWN_FAILURES: codes_of(Fault.OURS),
    RUNS_LOST: ("worker_lost", "not_taken", "process_lost"),
}.items():
    for _value in _values:
        _counter.labels(_value)


@contextmanager
def fetching() -> Iterator[None]:
    """Counts the block as one attempt to fetch a picture."""
    begin = time.perf_counter()
    try:
        yield
    except SegPipelineError as error:
        fetch_ended(error.code, time.perf_counter() - begin)
        raise
    else:
        fetch_ended("fetched", time.perf_counter() - begin)


def fetch_ended(outcome: str, seconds: float) -> None:
    """Counts one attempt to fetch a picture: `fetched`, or the code of its error."""
    FETCHES.labels(outcome).inc()
    FETCH_SECONDS.observe(seconds)
