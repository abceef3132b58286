"""Made-up histories of accepting, claiming, finishing and deleting, in which processes die anywhere."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from seg_pipeline.errors import JobConflict
from seg_pipeline.inbox import Inbox
from seg_pipeline.store import keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline_tests.builders import NOON, make_job
from seg_pipeline_tests.unreliable import Killed, UnreliableStore

UUIDS = st.sampled_from(["a", "b", "b-1"])
LIVES = st.none() | st.integers(0, 9)
STATUSES = st.sampled_from(["completed", "failed"])
END = NOON + timedelta(days=2)


class Histories(RuleBasedStateMachine):
    """`promised` are the jobs whose acceptance returned and that nobody began to delete."""

    def __init__(self) -> None:
        super().__init__()
        self.store = ObjectStore.in_memory()
        self.inbox = Inbox(self.store)
        self.promised: set[str] = set()
        self.ended: dict[str, str] = {}
        self.claimed: set[str] = set()

    def until_killed(self, lives: int | None) -> Inbox:
        return Inbox(UnreliableStore(self.store, lives))

    @rule(uuid=UUIDS, resize=st.sampled_from([None, None, None, 64]), lives=LIVES)
    def accept(self, uuid: str, resize: int | None, lives: int | None) -> None:
        job = make_job(uuid, resize=resize)
        with suppress(Killed, JobConflict):
            accepted = self.until_killed(lives).accept(job, b"picture")
            assert not (accepted.created and uuid in self.promised)
            self.promised.add(uuid)

    @rule(count=st.integers(1, 3), lives=LIVES)
    def claim(self, count: int, lives: int | None) -> None:
        """One by one, as threads would make the place of death a matter of chance."""
        for uuid in self.inbox.waiting(count):
            with suppress(Killed):
                claims = self.until_killed(lives).claim([uuid], f"{uuid}:1")
                assert not {claim.uuid for claim in claims} & self.claimed, "claimed twice"
                self.claimed.update(claim.uuid for claim in claims)

    @rule(lives=LIVES)
    def sweep(self, lives: int | None) -> None:
        for claim in self.inbox.inflight():
            with suppress(Killed):
                again = self.until_killed(lives).reclaim(claim, "again")
                assert again is None or again.attempt == claim.attempt + 1

    @rule(uuid=UUIDS, status=STATUSES, hours=st.integers(0, 24), lives=LIVES)
    def finish(self, uuid: str, status: str, hours: int, lives: int | None) -> None:
        """Claimed or not: an operator may run any job at any time."""
        self.ended.pop(uuid, None)
        with suppress(Killed):
            finished = self.until_killed(lives).finish(uuid, {}, status, NOON + timedelta(hours=hours))
            assert finished or uuid not in self.promised
            if finished:
                self.ended[uuid] = status

    @rule(uuid=UUIDS, lives=LIVES)
    def delete(self, uuid: str, lives: int | None) -> None:
        self.promised.discard(uuid)
        self.claimed.discard(uuid)
        self.ended.pop(uuid, None)
        with suppress(Killed):
            self.until_killed(lives).delete(uuid)

    @rule(hours=st.integers(0, 25), lives=LIVES)
    def prune(self, hours: int, lives: int | None) -> None:
        inbox, now = self.until_killed(lives), NOON + timedelta(hours=hours)
        with suppress(Killed):
            for job in inbox.expired(now, 10):
                assert job.uuid not in self.inbox.waiting(10)
                assert self.inbox.claim_of(job.uuid) is None
                result = self.inbox.result(job.uuid)
                assert result is None or datetime.fromisoformat(result["expires_at"]) <= now
                self.delete(job.uuid, lives=None)
                inbox.store.delete(job.key)

    @invariant()
    def no_promised_job_is_lost(self) -> None:
        waiting, inflight = set(self.inbox.waiting(10)), {claim.uuid for claim in self.inbox.inflight()}
        listed = {entry.uuid for entry in self.inbox.page(None, None, 100).jobs}
        for uuid in self.promised:
            status = self.inbox.status(uuid)
            assert uuid in waiting | inflight or self.inbox.result(uuid), status
            assert self.store.get(keys.source(uuid, "png")) == b"picture"
            assert uuid in listed or status in ("completed", "failed")

    @invariant()
    def what_ended_stays_so(self) -> None:
        for uuid, status in self.ended.items():
            if uuid in self.promised:
                assert self.inbox.status(uuid) == status
                assert uuid in {entry.uuid for entry in self.inbox.page(self.inbox.status(uuid), None, 9).jobs}

    def teardown(self) -> None:
        """In the end the sweeper and a worker finish every job, and then the prune leaves nothing of it."""
        for claim in self.inbox.claim(self.inbox.waiting(10), "last"):
            self.inbox.finish(claim.uuid, {}, "completed", END)
        for claim in self.inbox.inflight():
            if self.inbox.reclaim(claim, "very last"):
                self.inbox.finish(claim.uuid, {}, "completed", END)
        assert self.inbox.waiting(10) == []
        assert self.inbox.inflight() == []
        assert all(self.inbox.result(uuid) for uuid in self.promised)
        for _ in range(2):  # an expiry marker that had to be put right is found by the next prune
            for uuid in self.inbox.orphans(datetime.now(UTC) + timedelta(hours=1)):
                self.inbox.delete(uuid)
            for job in self.inbox.expired(END, 100):
                self.inbox.delete(job.uuid)
                self.store.delete(job.key)
        assert self._left() == set()

    def _left(self) -> set[str]:
        prefixes: list[Any] = [keys.ASSETS, keys.INBOX, keys.INFLIGHT, keys.DONE, keys.EXPIRY]
        return {info.key for prefix in prefixes for info in self.store.list(prefix)}


Histories.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestHistories = Histories.TestCase
