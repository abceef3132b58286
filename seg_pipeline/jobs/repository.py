"""The way of a job through the store: accepted, claimed, finished, deleted.

    accept   request.json → source.<ext> → inbox/{uuid}       an upload
             request.json → fetching/{uuid} … inbox/{uuid}    an address, see `fetches`
    claim    inflight/{uuid} → no inbox/{uuid}
    finish   result.json → its delivery, if the app server waits for it (see `outbox`)
             → done/{status}/{uuid} → expiry/{time}-{uuid} → no inflight/{uuid}
    retry    retries/{uuid} → no indexes → no result.json → inbox/{uuid}    see `retries`
    delete   no source.<ext> → no fetching/{uuid}, no inbox/{uuid}, no inflight/{uuid}
             → no result.json, no request.json → no other files → no indexes

A process may die between any two of these writes. Several processes may do the same at once. The
order of the writes is such that doing them again leads to the same end. `request.json` and
`result.json` are the truth. The markers say where each job stands, and only help to find a job
without a look at every one.

A uuid may be accepted again while its former job is being deleted. Once the former job has no
request any more, the deletion touches nothing that an acceptance writes.
"""

from collections.abc import Iterable

from seg_pipeline.domain import Job, JobStatus
from seg_pipeline.errors import JobNotFound
from seg_pipeline.jobs.acceptance import Acceptance
from seg_pipeline.jobs.batch_work import BatchWork
from seg_pipeline.jobs.batches import Batches
from seg_pipeline.jobs.cancels import Cancels
from seg_pipeline.jobs.claims import Claims
from seg_pipeline.jobs.expiry import Expiry
from seg_pipeline.jobs.fetches import FetchQueue
from seg_pipeline.jobs.heartbeats import WorkerHeartbeat
from seg_pipeline.jobs.idempotency import IdempotencyKeys
from seg_pipeline.jobs.listing import JobListing
from seg_pipeline.jobs.outbox import Outbox
from seg_pipeline.jobs.records import Result
from seg_pipeline.jobs.removal import Removal
from seg_pipeline.jobs.results import Results
from seg_pipeline.jobs.retries import Retries
from seg_pipeline.jobs.reuse import Reuse
from seg_pipeline.jobs.stored_jobs import get_job, has_marker, read_result
from seg_pipeline.store import Store, keys


class JobRepository:
    """The jobs of a store: reads of one job, and a part for each step of its way.

    All of it is safe to use from several threads and processes. All methods, those of the parts
    too, raise StoreUnavailable when the store fails. It is always right to call again.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.outbox = Outbox(store)
        self.fetches = FetchQueue(store)
        self.listing = JobListing(store)
        self.idempotency = IdempotencyKeys(store)
        self.removal = Removal(store, self.outbox)
        self.acceptance = Acceptance(store, self.outbox, self.removal)
        self.results = Results(store, self.outbox, self.removal)
        self.retries = Retries(store, self.fetches)
        self.cancels = Cancels(store, self.results)
        self.reuse = Reuse(store, self.acceptance, self.results)
        self.claims = Claims(store, self.fetches, self.results)
        self.expiry = Expiry(store, self.results, self.removal)
        self.batches = Batches(store, self.removal, self.outbox)
        self.batch_work = BatchWork(
            store, self.batches, self.acceptance, self.results, self.cancels, self.outbox
        )

    def job(self, uuid: str) -> Job:
        """The job as it was requested; raises JobNotFound."""
        return get_job(self.store, uuid)

    def result(self, uuid: str) -> Result | None:
        """How the job ended; None if it has not."""
        stored = read_result(self.store, uuid)
        return stored.result if stored else None

    def status(self, uuid: str, live_heartbeats: Iterable[WorkerHeartbeat] = ()) -> JobStatus:
        """Where the job stands, by what `live_workers` gives. Raises JobNotFound."""
        result = self.result(uuid)
        if result is not None:
            return result.status
        if self.store.head(keys.request(uuid)) is None:
            raise JobNotFound(uuid)
        if any(uuid in heartbeat.uuids for heartbeat in live_heartbeats):
            return JobStatus.PROCESSING
        if has_marker(self.store, uuid):
            return JobStatus.QUEUED
        result = self.result(uuid)  # the job may have ended since the first look
        if result is None:
            raise JobNotFound(uuid)
        return result.status
