"""The two records that say all of a job: its request, and its result once it has ended."""

from seg_pipeline.domain import Job
from seg_pipeline.errors import ObjectNotFound
from seg_pipeline.jobs.records import Result, StoredResult
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import UnreadableRecord, load, read


def read_job(store: Store, uuid: str) -> Job | None:
    """The job as it was asked for; None if there is none that can be read."""
    return load(store, Job, keys.request(uuid))


def read_result(store: Store, uuid: str) -> StoredResult | None:
    """How the job ended; None if it has not, or after a power cut."""
    try:
        data = store.get(keys.result(uuid))
        return StoredResult(read(Result, data), data)
    except (ObjectNotFound, UnreadableRecord):
        return None
