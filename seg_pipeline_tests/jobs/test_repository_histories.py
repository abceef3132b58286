"""Made-up histories of accepting, claiming, finishing and deleting, in which processes die
anywhere."""

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_pipeline.errors import FetchGivenUp, JobConflict, JobNotFound, NotFailed
from seg_pipeline.jobs.fetches import FetchState
from seg_pipeline.jobs.markers import marker_name
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline_tests.builders import NOON, make_job, make_result, orphans, waiting_uuids
from seg_pipeline_tests.jobs.jobs_in_store import all_keys
from seg_pipeline_tests.unreliable import Killed, UnreliableStore

pytestmark = pytest.mark.process

END = NOON + timedelta(days=2)
ADDRESSES = ("b", "c")
"""Jobs that name an address; the others are uploads."""

# Doing nothing wrong must be the most likely, or no job comes far.
LIVES = [None] * 8 + [*range(9)]


class History:
    """What happened so far; `promised` are the jobs whose acceptance returned and that nobody began
    to delete."""

    def __init__(self) -> None:
        self.store = ObjectStore.in_memory()
        self.repository = JobRepository(self.store)
        self.promised: set[str] = set()
        self.ended: dict[str, str] = {}
        self.claimed: set[str] = set()
        self.ends = 0

    def until_killed(self, lives: int | None) -> JobRepository:
        return JobRepository(UnreliableStore(self.store, lives))

    def accept(self, uuid: str, number: int, lives: int | None) -> None:
        address = {"image_url": "https://pictures.example/a.png"} if uuid in ADDRESSES else {}
        job = make_job(uuid, resize=64 if number == 0 else None, **address)
        with suppress(Killed, JobConflict):
            accepted = self.until_killed(lives).acceptance.accept(
                job, None if address else b"picture"
            )
            assert not (accepted.created and uuid in self.promised)
            self.promised.add(uuid)

    def fetch(self, uuid: str, number: int, lives: int | None) -> None:
        """A fetcher's try, which brings the picture, or not yet, or finds that it cannot be had."""
        fetches = self.until_killed(lives).fetches
        with suppress(Killed):
            for pending in filter(None, map(fetches.take, fetches.uuids())):
                record = pending.record
                if number % 3 == 0:
                    fetches.retry(pending.job, replace(record, attempts=record.attempts + 1))
                elif number % 3 == 1:
                    fetches.failed(pending.job, record.failed(FetchGivenUp("It is away.")))
                else:
                    fetches.fetched(
                        pending.job, b"picture", replace(record, state=FetchState.FETCHED, size=7)
                    )

    def send_back(self, uuid: str, number: int, lives: int | None) -> None:
        """A run that finds no picture, or an operator who has it fetched again."""
        with suppress(Killed, JobNotFound):
            job = self.repository.job(uuid)
            if job.image_url and number % 2:
                self.claimed.discard(uuid)
                self.until_killed(lives).claims.fetch_first(job)
            elif job.image_url:
                self.until_killed(lives).fetches.add_again(job)

    def claim(self, uuid: str, number: int, lives: int | None) -> None:
        """One by one, as threads would make the place of death a matter of chance."""
        for waiting in waiting_uuids(self.repository, number):
            with suppress(Killed):
                claims = self.until_killed(lives).claims.claim([waiting], f"{waiting}:1")
                assert not {claim.uuid for claim in claims} & self.claimed, "claimed twice"
                self.claimed.update(claim.uuid for claim in claims)

    def remove_leftovers(self, uuid: str, number: int, lives: int | None) -> None:
        for claim in self.repository.claims.inflight():
            claims = self.until_killed(lives).claims
            with suppress(Killed):
                if claim.is_given_back:
                    claims.complete(claim)
                else:
                    claims.reclaim(claim.after_loss(NOON))

    def give_back(self, uuid: str, number: int, lives: int | None) -> None:
        """A run that gives way before it has begun the job."""
        for claim in self.repository.claims.inflight():
            self.claimed.discard(claim.uuid)
            with suppress(Killed):
                self.until_killed(lives).claims.give_back([claim.uuid], claim.run_key)

    def finish(self, uuid: str, number: int, lives: int | None) -> None:
        """Claimed or not: an operator may run any job at any time. No two ends are the same."""
        self.ended.pop(uuid, None)
        self.ends += 1
        status, hours = ("completed", "failed")[number % 2], number % 5
        expires_at, seconds = NOON + timedelta(hours=hours), {"result": float(self.ends)}
        with suppress(Killed):
            finished = self.until_killed(lives).results.finish(
                make_result(uuid, status, expires_at, seconds=seconds)
            )
            assert finished or uuid not in self.promised
            if finished:
                self.ended[uuid] = status

    def retry(self, uuid: str, number: int, lives: int | None) -> None:
        """A client who wants a failed job again, and the sweeper that completes it."""
        with suppress(Killed, JobNotFound, NotFailed):
            if self.repository.job(uuid):
                self.ended.pop(uuid, None)
                self.claimed.discard(uuid)
            self.until_killed(lives).retries.request(uuid)
        with suppress(Killed):
            if number % 2:
                self.until_killed(lives).retries.complete(datetime.now(UTC) + timedelta(minutes=1))

    def delete(self, uuid: str, number: int, lives: int | None) -> None:
        self.promised.discard(uuid)
        self.claimed.discard(uuid)
        self.ended.pop(uuid, None)
        with suppress(Killed):
            self.until_killed(lives).removal.delete(uuid)

    def prune(self, uuid: str, number: int, lives: int | None) -> None:
        repository, now = self.until_killed(lives), NOON + timedelta(hours=number)
        with suppress(Killed):
            for job in repository.expiry.expired(now, 10):
                assert job.uuid not in waiting_uuids(self.repository, 10)
                assert self.repository.claims.claim_of(job.uuid) is None
                result = self.repository.result(job.uuid)
                assert result is None or result.expires_at <= now
                self.delete(job.uuid, number, lives=None)
                repository.store.delete(job.key)

    def no_promised_job_is_lost(self) -> None:
        fetching = set(self.repository.fetches.uuids())
        waiting, inflight = (
            set(waiting_uuids(self.repository, 10)),
            {claim.uuid for claim in self.repository.claims.inflight()},
        )
        inflight |= {marker_name(info) for info in self.store.list(keys.RETRIES)}
        listed = {entry.uuid for entry in self.repository.listing.page(None, None, 100).jobs}
        for uuid in self.promised:
            status = self.repository.status(uuid)
            assert uuid in waiting | inflight | fetching or self.repository.result(uuid), status
            assert uuid in ADDRESSES or self.store.get(keys.source(uuid, "png")) == b"picture"
            assert uuid in listed | inflight or status in ("completed", "failed")

    def what_ended_stays_so(self) -> None:
        for uuid, status in self.ended.items():
            if uuid in self.promised:
                assert self.repository.status(uuid) == status
                assert uuid in {
                    entry.uuid
                    for entry in self.repository.listing.page(
                        self.repository.status(uuid), None, 9
                    ).jobs
                }

    def ends_well(self) -> None:
        """In the end fetcher, sweeper and worker finish every job, and then the prune leaves
        nothing of it."""
        self.repository.retries.complete(datetime.now(UTC) + timedelta(hours=1))
        for _ in range(2):  # one whose picture had gone is fetched once more
            self.fetch("", 2, None)
            self.claim("", 10, None)
        self.fetch("", 2, None)
        assert self.repository.fetches.uuids() == []
        for claim in self.repository.claims.claim(waiting_uuids(self.repository, 10), "last"):
            self.repository.results.finish(make_result(claim.uuid, "completed", END))
        for claim in self.repository.claims.inflight():
            if self.repository.claims.reclaim(claim.after_loss(NOON)):
                self.repository.results.finish(make_result(claim.uuid, "completed", END))
        assert waiting_uuids(self.repository, 10) == []
        assert self.repository.claims.inflight() == []
        assert all(self.repository.result(uuid) for uuid in self.promised)
        for _ in range(2):  # an expiry marker that had to be put right is found by the next prune
            for uuid in orphans(self.repository, datetime.now(UTC) + timedelta(hours=1)):
                self.repository.removal.remove_leftovers(uuid)
            for job in self.repository.expiry.expired(END, 100):
                self.repository.expiry.expire(job)
        assert all_keys(self.repository) == set()


STEPS = st.tuples(
    st.sampled_from(
        ["accept"] * 4
        + ["fetch"] * 3
        + ["claim"] * 3
        + ["finish"] * 3
        + ["retry"] * 2
        + ["remove_leftovers", "delete", "prune", "send_back", "give_back"]
    ),
    st.sampled_from(["a", "b-1", *ADDRESSES]),
    st.integers(0, 6),
    st.sampled_from(LIVES),
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.lists(STEPS, min_size=12, max_size=30))
def test_whatever_happens_no_job_is_lost_doubled_or_left_behind(
    steps: list[tuple[str, str, int, int | None]],
) -> None:
    history = History()
    for action, uuid, number, lives in steps:
        getattr(history, action)(uuid, number, lives)
        history.no_promised_job_is_lost()
        history.what_ended_stays_so()
    history.ends_well()
