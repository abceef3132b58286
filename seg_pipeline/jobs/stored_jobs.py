"""Reads of one job: its request, its result, and the markers that lead to it."""

from seg_pipeline.domain import Job
from seg_pipeline.errors import JobNotFound, ObjectNotFound
from seg_pipeline.jobs.records import Result, StoredResult
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import UnreadableRecord, load, read


def read_job(store: Store, uuid: str) -> Job | None:
    """The job as it was requested; None if no request can be read."""
    return load(store, Job, keys.request(uuid))


def get_job(store: Store, uuid: str) -> Job:
    """The job as it was requested; raises JobNotFound."""
    job = read_job(store, uuid)
    if job is None:
        raise JobNotFound(uuid)
    return job


def read_result(store: Store, uuid: str) -> StoredResult | None:
    """How the job ended; None if it has not ended, or if a power cut damaged the result."""
    try:
        data = store.get(keys.result(uuid))
        return StoredResult(read(Result, data), data)
    except (ObjectNotFound, UnreadableRecord):
        return None


def has_marker(store: Store, uuid: str) -> bool:
    """Whether the job is to run again, or is on its way."""
    return store.head(keys.retry(uuid)) is not None or is_on_its_way(store, uuid)


def is_on_its_way(store: Store, uuid: str) -> bool:
    """Whether the job waits for its picture, waits for its run, or is in flight."""
    # Each step makes the next marker before it removes its own, so this order misses no job.
    # A step back leads to the first marker, which is why that is looked for twice.
    markers = (keys.fetching(uuid), keys.inbox(uuid), keys.inflight(uuid), keys.fetching(uuid))
    return any(store.head(key) for key in markers)


def is_known(store: Store, uuid: str) -> bool:
    """Whether a marker or a result leads to the job."""
    return has_marker(store, uuid) or read_result(store, uuid) is not None
