"""Jobs as a list, a page at a time."""

from datetime import UTC, datetime, timedelta

import pytest

from seg_pipeline.domain import JobStatus
from seg_pipeline.errors import InvalidRequest
from seg_pipeline.jobs.listing import Page
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline_tests.builders import make_heartbeat
from seg_pipeline_tests.jobs.jobs_in_store import accept, everything, finish


def test_pages_go_through_all_jobs_by_status(repository: JobRepository) -> None:
    accept(repository, "q1", "q2", "claimed", "busy1", "busy2")
    repository.claims.claim(["claimed", "busy1", "busy2"], "run")
    finish(repository, "f1", "f2", status="failed")
    finish(repository, "c1", "c2", "c3")
    heartbeats = [make_heartbeat(uuids=("busy1", "busy2", "elsewhere"))]
    expected = [
        ("q1", "queued"), ("q2", "queued"), ("claimed", "queued"), ("busy1", "processing"),
        ("busy2", "processing"),
        ("f1", "failed"), ("f2", "failed"), ("c1", "completed"), ("c2", "completed"),
        ("c3", "completed"),
    ]  # fmt: skip
    for limit in range(1, 12):
        assert everything(repository, limit, live_heartbeats=heartbeats) == expected
        for status in JobStatus:
            some = [(uuid, name) for uuid, name in expected if name == status]
            assert everything(repository, limit, live_heartbeats=heartbeats, status=status) == some


def test_a_line_says_since_when(repository: JobRepository) -> None:
    accept(repository, "a")
    (entry,) = repository.listing.page(None, None, 10).jobs
    assert abs(datetime.now(UTC) - entry.since) < timedelta(minutes=1)


def test_an_empty_service_has_one_empty_page(repository: JobRepository) -> None:
    assert repository.listing.page(None, None, 10) == Page([], None)


def test_the_last_page_has_no_next_one(repository: JobRepository) -> None:
    accept(repository, "a", "b")
    assert repository.listing.page(None, None, 2).next is None
    first = repository.listing.page(None, None, 1)
    assert repository.listing.page(None, first.next, 1).next is None


def test_paging_survives_jobs_that_come_and_go(repository: JobRepository) -> None:
    finish(repository, "a", "b", "c", "d")
    first = repository.listing.page(None, None, 2)
    repository.removal.delete("b")
    finish(repository, "bb", "cc")
    rest = repository.listing.page(None, first.next, 10)
    assert [entry.uuid for entry in rest.jobs] == ["bb", "c", "cc", "d"]


def test_a_token_fits_into_an_address_and_hides_no_path(repository: JobRepository) -> None:
    accept(repository, "a" * 64, "b")
    token = repository.listing.page(None, None, 1).next
    assert token
    assert token.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize(
    "token", ["x", "????", "é", "LTE6YQ", "OTk6YQ", "MDouLi8uLg", "MA", "a" * 5000, "AAAA"]
)
def test_a_made_up_token_is_an_invalid_request(repository: JobRepository, token: str) -> None:
    accept(repository, "a")
    with pytest.raises(InvalidRequest):
        repository.listing.page(None, token, 10)
