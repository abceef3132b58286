"""Delivers the outbox to a server: oldest first, a few at a time, gently in an outage."""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from seg_pipeline.adapters.app_server import LIMITS, AppServer, DeliveryLimits, Session
from seg_pipeline.adapters.deadlines import run_promptly
from seg_pipeline.errors import StoreError
from seg_pipeline.jobs.answers import callback
from seg_pipeline.jobs.backoff import Backoff, Jitter
from seg_pipeline.jobs.batch_answers import batch_end
from seg_pipeline.jobs.deliveries import Delivery, Policy, Reply
from seg_pipeline.jobs.file_links import file_links
from seg_pipeline.jobs.outbox import DueBatch, DueDelivery, Marker, Outbox
from seg_pipeline.monitoring.service_state import (
    AppServerState,
    note_app_server_state,
    read_app_server_state,
)
from seg_pipeline.settings import Settings
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import to_document
from seg_pipeline.telemetry import metrics
from seg_pipeline.telemetry.logs import about

logger = logging.getLogger(__name__)

AT_ONCE = 4
PER_ROUND = 64
FAILURES_THAT_OPEN = 3
LONGEST_PROBE_PAUSE_SECONDS = 30.0


@dataclass
class RelayReport:
    """What one call did: the deliveries that ended, and those that are tried again.

    A delivery ends delivered or parked.
    """

    ended: list[Delivery] = field(default_factory=list)
    put_off: list[Delivery] = field(default_factory=list)

    def add(self, delivery: Delivery) -> None:
        """Adds the outcome of a delivery."""
        (self.put_off if delivery.is_pending else self.ended).append(delivery)
        metrics.CALLBACKS.labels("retried" if delivery.is_pending else str(delivery.state)).inc()
        _log(delivery)


@dataclass(frozen=True)
class Destination:
    """A server, and the queue of the outbox with what it is to be told."""

    server: AppServer
    queue: str

    @property
    def is_app_server(self) -> bool:
        """Whether it is the app server, whose outages are noted for the operator."""
        return self.queue == keys.OUTBOX


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class RelayTiming:
    """What time it is, how pauses vary, and how long a request may take; tests set their own."""

    clock: Callable[[], datetime] = _utc_now
    jitter: Jitter = random.random
    limits: DeliveryLimits = LIMITS


USUAL_TIMING = RelayTiming()


@dataclass(frozen=True)
class _Failed:
    """A delivery that failed, and the earliest retry that its Retry-After allows."""

    delivery: Delivery
    not_before: datetime


class OutboxRelay:
    """Sends due deliveries, `AT_ONCE` at a time; one for each destination in a process.

    Without a destination it is the app server's.

    After a few failures in a row the app server counts as down. One delivery at a time is then
    tried, with growing pauses, and the others wait untouched. Any answer ends the outage, whatever
    its status. The deliveries tried meanwhile then take their old places, so everything goes out in
    the order of recording.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        timing: RelayTiming = USUAL_TIMING,
        destination: Destination | None = None,
    ) -> None:
        self.outbox = Outbox(store)
        self._links = file_links(store, settings)
        self._base_url = settings.public_url
        self._to = destination or Destination(AppServer(settings, timing.limits), keys.OUTBOX)
        self._policy = Policy(settings.callback_give_up_seconds, settings.parked_ttl_seconds)
        self._clock = timing.clock
        self._jitter = timing.jitter
        self._backoff = Backoff(LONGEST_PROBE_PAUSE_SECONDS, timing.jitter)
        self._down_since: datetime | None = None
        self._problem: str | None = None
        self._has_answered = False
        self._known_state: AppServerState | None = None
        self._failed: dict[str, _Failed] = {}

    @property
    def thinks_it_is_down(self) -> bool:
        """Whether the last few deliveries all failed."""
        return self._backoff.failures >= FAILURES_THAT_OPEN

    @property
    def problem(self) -> str | None:
        """What went wrong last; None if the last answer was a success."""
        return self._problem

    def wait_seconds(self) -> float:
        """How long the next try has to wait."""
        return self._backoff.wait_seconds(self._now()) if self.thinks_it_is_down else 0.0

    def deliver(self, may_start: Callable[[], bool] = lambda: True) -> RelayReport:
        """Sends what is due while `may_start` holds; nothing during a pause of an outage.

        Raises StoreError if the outbox cannot be read.
        """
        done = RelayReport()
        markers = self._due()
        if markers:
            run_promptly(self._send_all(markers, may_start, done))
        if markers and self.thinks_it_is_down:
            self._park_overdue(done)
        if markers and self._to.is_app_server:
            with suppress(StoreError):  # the next round notes it
                self._note_state()
        return done

    def _note_state(self) -> None:
        """Records in the store when an outage begins and ends, for `/metrics` and the alarms.

        An outage that another process recorded goes on until there is an answer.
        """
        known = self._known_state or read_app_server_state(self.outbox.store)
        state = known
        if self._down_since is None and self._has_answered:
            state = AppServerState()
        elif self._down_since and self.thinks_it_is_down:
            state = AppServerState(known.down_since or self._down_since, self._problem)
        if state.down_since != known.down_since:
            note_app_server_state(self.outbox.store, state)
            self._log_change(known, state)
        self._known_state = state

    def _log_change(self, known: AppServerState, state: AppServerState) -> None:
        if state.down_since:
            logger.error(
                "the app server is down since %s: %s", state.down_since.isoformat(), state.problem
            )
        elif known.down_since:
            seconds = (self._clock() - known.down_since).total_seconds()
            logger.warning("the app server answers again, after %.0f s", seconds)

    def _due(self) -> list[Marker]:
        if self.wait_seconds() > 0:
            return []
        limit = 1 if self.thinks_it_is_down else PER_ROUND
        return self.outbox.waiting(self._clock(), limit, self._to.queue)

    async def _send_all(
        self, markers: Sequence[Marker], may_start: Callable[[], bool], done: RelayReport
    ) -> None:
        waiting = iter(markers)
        async with self._to.server.session() as session:
            senders = (
                self._deliver(waiting, session, may_start, done)
                for _ in range(min(AT_ONCE, len(markers)))
            )
            await asyncio.gather(*senders)

    async def _deliver(
        self,
        waiting: Iterator[Marker],
        session: Session,
        may_start: Callable[[], bool],
        done: RelayReport,
    ) -> None:
        """One of several that share the iterator, until it is empty or the relay must stop."""
        for marker in waiting:
            if not may_start() or self.wait_seconds() > 0:
                return
            try:
                with about(marker.uuid):
                    await self._take_and_tell(marker, session, done)
            except StoreError as error:  # a pause too: what is sent now could not be recorded
                with about(marker.uuid):
                    logger.warning(
                        "job %s: its delivery cannot be recorded: %s", marker.uuid, error
                    )
                self._backoff.failed(self._now())
                return

    async def _take_and_tell(self, marker: Marker, session: Session, done: RelayReport) -> None:
        due_delivery = await asyncio.to_thread(self._take, marker, self._clock())
        if due_delivery:
            await self._tell(due_delivery, session, done)

    def _take(self, marker: Marker, now: datetime) -> DueDelivery | DueBatch | None:
        is_batch = keys.batch_told(marker.uuid) is not None
        return self.outbox.take_batch(marker, now) if is_batch else self.outbox.take(marker, now)

    async def _tell(
        self, due_delivery: DueDelivery | DueBatch, session: Session, done: RelayReport
    ) -> None:
        reply = await self._reply(due_delivery, session)
        metrics.CALLBACK_SECONDS.observe(reply.seconds)
        now = self._clock()
        after = due_delivery.delivery.after(
            reply, now, self._policy, due_delivery.keep_until(now), self._jitter
        )
        await asyncio.to_thread(self.outbox.note, after, due_delivery.delivery)
        done.add(after)
        if reply.is_delivered or reply.is_final:
            self._failed.pop(after.uuid, None)
            for delivery in self._recovered():
                await asyncio.to_thread(self.outbox.note, delivery.hurried(), delivery)
        else:
            self._note_failure(after, reply, now)

    async def _reply(self, due_delivery: DueDelivery | DueBatch, session: Session) -> Reply:
        try:
            if isinstance(due_delivery, DueBatch):
                name = self._to.server.name_of_batch(due_delivery.batch)
                return await session.tell(name, self._end_of_batch(due_delivery))
            name = self._to.server.name_of(due_delivery.job)
            return await session.tell(name, self._document(due_delivery))
        except Exception as error:  # whatever is wrong with one must not hold up the others
            logger.exception(
                "job %s: its callback failed in a way nobody foresaw", due_delivery.delivery.uuid
            )
            return Reply(
                0.0,
                problem=f"an unexpected {type(error).__name__} occurred; the log has the details.",
            )

    def _document(self, due_delivery: DueDelivery) -> dict[str, Any]:
        told = callback(
            due_delivery.result, self._links, self._base_url, due_delivery.job.callback_uuid
        )
        return to_document(told)

    def _end_of_batch(self, due: DueBatch) -> dict[str, Any]:
        return to_document(batch_end(due.batch, due.progress, self._base_url))

    def _note_failure(self, after: Delivery, reply: Reply, now: datetime) -> None:
        self._down_since = self._down_since or now
        self._problem = after.last_problem
        at_least = min(reply.retry_after_seconds, self._policy.longest_retry_after_seconds)
        if after.is_pending:
            self._failed[after.uuid] = _Failed(after, now + timedelta(seconds=at_least))
        self._backoff.failed(now.timestamp(), at_least)

    def _recovered(self) -> list[Delivery]:
        """Ends the outage, and returns the deliveries that need not wait any longer.

        These were first tried during the outage, and no Retry-After asks them to wait. Deliveries
        that had failed before keep their own pauses.
        """
        since, now = self._down_since if self.thinks_it_is_down else None, self._clock()
        elapsed = [each.delivery for each in self._failed.values() if each.not_before <= now]
        failed = [delivery for delivery in elapsed if since and delivery.begun_since(since)]
        self._failed, self._down_since, self._problem = {}, None, None
        self._has_answered = True
        self._backoff.worked()
        return failed

    def _park_overdue(self, done: RelayReport) -> None:
        """Parks, untried, what has waited too long for an app server that is down."""
        now = self._clock()
        for marker in self.outbox.waiting(now, PER_ROUND, self._to.queue):
            due_delivery = self._take(marker, now)
            if due_delivery and now >= due_delivery.delivery.gives_up_at(self._policy):
                reason = (
                    f"given up after {self._policy.give_up_seconds:g} s; {self._to.server.called}"
                    f" is down: {self._problem}"
                )
                parked = due_delivery.delivery.parked(reason, now, self._policy)
                self.outbox.note(parked, due_delivery.delivery)
                with about(parked.uuid):
                    done.add(parked)

    def _now(self) -> float:
        return self._clock().timestamp()


def _log(delivery: Delivery) -> None:
    if delivery.reason:
        logger.warning("job %s: callback parked: %s", delivery.uuid, delivery.reason)
    elif delivery.is_pending:
        logger.info(
            "job %s: callback failed %d times: %s",
            delivery.uuid,
            delivery.attempt_count,
            delivery.last_problem,
        )
    else:
        told = "the webhook" if delivery.host_id else "the app server"
        logger.info("job %s: %s has been told", delivery.uuid, told)
