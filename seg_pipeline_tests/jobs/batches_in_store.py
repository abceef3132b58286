"""What the tests of batches do with them."""

from datetime import datetime, timedelta
from typing import Any

from seg_pipeline.errors import NotAnImage
from seg_pipeline.jobs.batch_records import Batch, BatchProgress, Entry
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.pipeline.stages import fail_job
from seg_pipeline_tests.builders import NOON, bring_picture, make_result, waiting_uuids

ID = "summer"


def make_batch(total: int = 3, **asked: Any) -> Batch:
    """A batch of addresses."""
    given = {"id": ID, "model": "demo-yolo", "fingerprint": "f", "accepted_at": NOON, **asked}
    return Batch(total=total, **given)


def make_entries(total: int = 3) -> list[Entry]:
    """As many addresses, each its own name."""
    addresses = [f"https://pictures.example/{number}.png" for number in range(total)]
    return [Entry(address, address) for address in addresses]


def accept_batch(repository: JobRepository, total: int = 3, **asked: Any) -> Batch:
    """A batch that waits for the sensor."""
    batch = make_batch(total, **asked)
    return repository.batches.accept(batch, make_entries(total)).batch


def advance(
    repository: JobRepository, after: timedelta = timedelta(), window: int = 1000, **how: Any
) -> BatchProgress:
    """One pass, and how far the batch is then."""
    repository.batch_work.advance(window, NOON + after, **how)
    return repository.batches.progress(repository.batches.get(ID))


def finish_waiting(repository: JobRepository, failing: tuple[str, ...] = ()) -> list[str]:
    """Fetches and runs what waits; gives the jobs."""
    for uuid in repository.fetches.uuids():
        bring_picture(repository, uuid)
    uuids = waiting_uuids(repository, 1000)
    repository.claims.claim(uuids, "run")
    for uuid in uuids:
        if uuid in failing:
            fail_job(repository, uuid, NotAnImage("This is a text."))
        else:
            repository.results.finish(make_result(uuid))
    return uuids


def finish_again(repository: JobRepository, uuid: str, at: datetime) -> None:
    """What a rerun does."""
    repository.results.finish(make_result(uuid, completed_at=at))
