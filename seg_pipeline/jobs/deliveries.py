"""A delivery: what came of telling somebody about a job, and what to do next.

All of it is pure policy.

pending ──2xx──▶ delivered
   │ ├──4xx, but not 408, 409, 425, 429; an address that is not allowed──▶ parked
   │ └──older than CALLBACK_GIVE_UP_SECONDS──▶ parked
   └──anything else──▶ pending, after a pause that grows
"""

import random
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self

from seg_pipeline.domain import Moment
from seg_pipeline.jobs.backoff import Jitter, growing_pause

_WORTH_A_RETRY = (408, 409, 425, 429)
_FIRST_KEPT = 3
_LAST_KEPT = 7


class DeliveryState(StrEnum):
    """Where a delivery stands."""

    PENDING = "pending"
    DELIVERED = "delivered"
    PARKED = "parked"


@dataclass(frozen=True)
class Reply:
    """What came of one request.

    Without an answer, `status` is None, and `problem` says why. `is_refused` says that it was not
    sent, since its address is not allowed.
    """

    seconds: float
    status: int | None = None
    problem: str | None = None
    retry_after_seconds: float = 0
    is_refused: bool = False

    @property
    def is_delivered(self) -> bool:
        """The app server has it."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_final(self) -> bool:
        """The app server will not accept it, however often it is sent.

        A redirect is not followed, since the API key would go along. It is not final either: the
        address is a setting, which an operator can correct.
        """
        return self.is_refused or (
            self.status is not None
            and 400 <= self.status < 500
            and self.status not in _WORTH_A_RETRY
        )


@dataclass(frozen=True)
class Attempt:
    """One PATCH of the past; `problem` is None if it arrived."""

    at: Moment
    seconds: float
    status: int | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Policy:
    """When to try again, when to give up, and how long to keep the files of a parked delivery."""

    give_up_seconds: float
    parked_ttl_seconds: float
    longest_pause_seconds: float = 600
    longest_retry_after_seconds: float = 3600

    def pause_seconds(self, failures: int, reply: Reply, jitter: Jitter) -> float:
        """The pause after that many failed attempts.

        It is at least what the server asked for, up to `longest_retry_after_seconds`.
        """
        asked = min(reply.retry_after_seconds, self.longest_retry_after_seconds)
        return max(asked, growing_pause(failures, self.longest_pause_seconds, jitter))


@dataclass(frozen=True)
class Delivery:
    """`delivery.json`.

    `result_sha256` names the result that it tells of: a job that is run again has another result.
    `due_at` is when the outbox looks at it again. While it is pending, that is the next attempt.
    Once it has ended, the job's files are kept from the prune until then; None if they need not be
    kept. Of many attempts, the first and the last are kept. `host_id` stands for a webhook's host;
    None is the app server.
    """

    uuid: str
    result_sha256: str
    created_at: Moment
    due_at: Moment | None
    state: DeliveryState = DeliveryState.PENDING
    attempts: tuple[Attempt, ...] = ()
    attempt_count: int = 0
    reason: str | None = None
    host_id: str | None = None

    @classmethod
    def begin(
        cls, uuid: str, result_sha256: str, now: datetime, host_id: str | None = None
    ) -> Self:
        """A delivery that is due at once."""
        return cls(uuid, result_sha256, created_at=now, due_at=now, host_id=host_id)

    @property
    def is_pending(self) -> bool:
        """Whether it is still to be sent."""
        return self.state is DeliveryState.PENDING

    @property
    def last_problem(self) -> str | None:
        """Why the last attempt did not arrive."""
        return self.attempts[-1].problem if self.attempts else None

    def gives_up_at(self, policy: Policy) -> datetime:
        """The last moment for an attempt."""
        return self.created_at + timedelta(seconds=policy.give_up_seconds)

    def begun_since(self, moment: datetime) -> bool:
        """Whether its first attempt was at or after the moment."""
        return bool(self.attempts) and self.attempts[0].at >= moment

    def hurried(self) -> Self:
        """The delivery, due as if it had never failed.

        It takes its place among those that have waited as long.
        """
        return replace(self, due_at=self.created_at)

    def parked(self, reason: str, now: datetime, policy: Policy) -> Self:
        """The delivery, given up; it is kept for a while with the job's files, to be replayed."""
        keep_until = now + timedelta(seconds=policy.parked_ttl_seconds)
        return replace(self, state=DeliveryState.PARKED, reason=reason, due_at=keep_until)

    def after(
        self,
        reply: Reply,
        now: datetime,
        policy: Policy,
        keep_until: datetime | None,
        jitter: Jitter = random.random,
    ) -> Self:
        """The delivery after an attempt.

        A delivery that arrived keeps the job's files until `keep_until`.
        """
        tried = self._with_attempt(
            Attempt(now, round(reply.seconds, 3), reply.status, reply.problem)
        )
        if reply.is_delivered:
            return replace(tried, state=DeliveryState.DELIVERED, reason=None, due_at=keep_until)
        problem = reply.problem or f"the app server answered {reply.status}"
        if reply.is_final:
            return tried.parked(problem, now, policy)
        last_chance = self.gives_up_at(policy)
        if now >= last_chance:
            return tried.parked(
                f"given up after {policy.give_up_seconds:g} s: {problem}", now, policy
            )
        pause = timedelta(seconds=policy.pause_seconds(tried.attempt_count, reply, jitter))
        return replace(tried, due_at=min(now + pause, last_chance))

    def _with_attempt(self, attempt: Attempt) -> Self:
        attempts = (*self.attempts, attempt)
        if len(attempts) > _FIRST_KEPT + _LAST_KEPT:
            attempts = (*attempts[:_FIRST_KEPT], *attempts[-_LAST_KEPT:])
        return replace(self, attempts=attempts, attempt_count=self.attempt_count + 1)
