"""What the tests of the job repository do with jobs, and what they find in the store."""

from datetime import UTC, datetime, timedelta
from typing import Any

from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import keys
from seg_pipeline_tests.builders import (
    NOON,
    make_job,
    make_result,
)

PICTURE = b"picture"


LATER = NOON + timedelta(hours=1)


AN_HOUR = timedelta(hours=1)


def accept(repository: JobRepository, *uuids: str) -> None:
    for uuid in uuids:
        repository.acceptance.accept(make_job(uuid), PICTURE)


def finish(
    repository: JobRepository, *uuids: str, status: str = "completed", expires_at: datetime = LATER
) -> None:
    """Takes waiting jobs all the way."""
    accept(repository, *uuids)
    repository.claims.claim(uuids, "run")
    for uuid in uuids:
        repository.results.finish(make_result(uuid, status, expires_at))


UNREADABLE_REQUESTS = [
    *(None, b"", b"{", b"[]", b"{}", b'{"uuid": "../x", "model": "m"}', b"\xff"),
]
"""What may be under a request's key that is no job; None for nothing."""


def put_unreadable(
    repository: JobRepository, marker: str, request: str, data: bytes | None
) -> None:
    """A marker that leads to a request, and what is there instead."""
    repository.store.put(marker, b"")
    if data is not None:
        repository.store.put(request, data)


def all_keys(repository: JobRepository) -> set[str]:
    prefixes = [
        keys.ASSETS,
        keys.FETCHING,
        keys.INBOX,
        keys.INFLIGHT,
        keys.DONE,
        keys.EXPIRY,
        keys.PARKED,
    ]
    return {info.key for prefix in prefixes for info in repository.store.list(prefix)}


def everything(repository: JobRepository, limit: int = 3, **asked: Any) -> list[tuple[str, str]]:
    """All pages of a listing, as pairs of uuid and status."""
    found, after = [], None
    while True:
        page = repository.listing.page(
            asked.get("status"), after, limit, asked.get("live_heartbeats", ())
        )
        assert len(page.jobs) <= limit
        found += [(entry.uuid, str(entry.status)) for entry in page.jobs]
        if page.next is None:
            return found
        after = page.next


def now_and_then() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=1)
