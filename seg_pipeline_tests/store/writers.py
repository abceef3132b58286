"""What other processes do in the tests of stores; each function is run by a process of its own."""

import resource
import signal
from datetime import UTC, datetime
from itertools import count
from multiprocessing.synchronize import Barrier, Event

from seg_pipeline.domain import Job
from seg_pipeline.errors import StoreFull
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.settings import Settings
from seg_pipeline.store import open_store
from seg_pipeline_tests.builders import make_result, waiting_uuids


def write_for_ever(settings: Settings, key: str, size: int) -> None:
    """Writes the key again and again, each time other bytes, all alike; ends only when killed."""
    store = open_store(settings)
    while True:
        for byte in range(256):
            store.put(key, bytes([byte]) * size)


def write_past_a_limit(settings: Settings, key: str) -> None:
    """Exits with 0 if a file-size limit is told as StoreFull."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    store = open_store(settings)
    store.put(key, b"1" * 1000)
    try:
        store.put(key, b"2" * 1001)
    except StoreFull:
        raise SystemExit(0) from None
    raise SystemExit("no StoreFull")


def accept_at_once(
    settings: Settings, jobs: list[Job], start: Barrier, created: dict[str, int], name: int
) -> None:
    """Accepts each job at the moment when all other processes do, and notes those that it made."""
    repository = JobRepository(open_store(settings))
    for job in jobs:
        start.wait(60)
        if repository.acceptance.accept(job, b"picture").created:
            created[f"{job.uuid}/{name}"] = name


def claim_at_once(
    settings: Settings, uuids: list[str], start: Barrier, claimed: dict[str, int], name: int
) -> None:
    """Claims the jobs one by one at the moment when all other processes do, and notes those that it
    got."""
    repository = JobRepository(open_store(settings))
    for uuid in uuids:
        start.wait(60)
        for claim in repository.claims.claim([uuid], f"{uuid}:1"):
            claimed[f"{claim.uuid}/{name}"] = name


def finish_at_once(
    settings: Settings, uuids: list[str], start: Barrier, finished: dict[str, int], name: int
) -> None:
    """Finishes each job at the moment when all other processes do, each in another way."""
    repository = JobRepository(open_store(settings))
    for uuid in uuids:
        start.wait(60)
        repository.results.finish(
            make_result(
                uuid,
                ("completed", "failed")[name % 2],
                datetime(2026, 1, 2, 12, name, tzinfo=UTC),
                width=name + 1,
            )
        )
        finished[f"{uuid}/{name}"] = name


def work_for_ever(settings: Settings, prefix: str, ready: Event) -> None:
    """Accepts, claims and finishes job after job; ends only when killed."""
    repository = JobRepository(open_store(settings))
    for number in count():
        repository.acceptance.accept(
            Job(f"{prefix}-{number}", "demo-yolo", source_sha256="0" * 64, source_extension="png"),
            b"picture",
        )
        for claim in repository.claims.claim(waiting_uuids(repository, 3), f"{prefix}-{number}:1"):
            repository.results.finish(
                make_result(claim.uuid, "completed", datetime(2026, 1, 2, 13, tzinfo=UTC))
            )
        ready.set()


def use_keys_at_once(
    settings: Settings, names: list[str], start: Barrier, found: dict[str, int], process: int
) -> None:
    """Uses each key at the moment when all other processes do, and notes the job it stands for, as
    `key/uuid`: one for each key, if all find the same."""
    repository = JobRepository(open_store(settings))
    for name in names:
        start.wait(60)
        uuid = repository.idempotency.uuid_of(name, "asked", f"job-{process}")
        found[f"{name}/{uuid}"] = process
