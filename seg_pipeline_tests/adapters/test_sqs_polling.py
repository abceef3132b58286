"""A tick's worth of pulling, with a queue that has good and bad days."""

from typing import Any

import pytest

from seg_pipeline.adapters.sqs_consumer import Pulled
from seg_pipeline.adapters.sqs_polling import SqsPoller
from seg_pipeline.errors import QueueUnavailable, StoreUnavailable
from seg_pipeline.jobs.backoff import Backoff

AWAY = QueueUnavailable("the queue cannot be used: it is away.")


class ScriptedConsumer:
    """Gives the scripted pulls in turn, then nothing; each takes the seconds that it was told to
    wait."""

    def __init__(self, clock: "Clock", *script: Pulled | Exception) -> None:
        self._clock = clock
        self._script = list(script)
        self.waits: list[float] = []

    def pull(self, wait_seconds: float) -> Pulled:
        self.waits.append(wait_seconds)
        step = self._script.pop(0) if self._script else None
        if isinstance(step, Exception):
            raise step
        self._clock.now += int(wait_seconds) if step is None else 0.01
        return step or Pulled()


class Clock:
    """Time passes by sleeping."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make_poller(clock: Clock, *script: Any) -> tuple[SqsPoller, ScriptedConsumer]:
    consumer = ScriptedConsumer(clock, *script)
    return SqsPoller(consumer, clock, clock.sleep, Backoff(60, lambda: 1)), consumer  # type: ignore[arg-type]


def test_a_quiet_tick_is_one_long_poll(clock: Clock) -> None:
    poller, consumer = make_poller(clock)
    assert poller.collect(20).summary() == "No job came by the queue."
    assert consumer.waits == [20]


def test_a_backlog_is_taken_pull_by_pull_until_the_tick_is_over(clock: Clock) -> None:
    poller, consumer = make_poller(clock, *[Pulled(accepted=("a", "b"))] * 30)
    assert poller.collect(20).summary() == "Took 60 jobs from the queue."
    assert clock.slept == []
    assert consumer.waits[-1] >= 1


def test_it_does_not_poll_in_circles_in_the_last_second(clock: Clock) -> None:
    poller, consumer = make_poller(clock, Pulled(accepted=("a",)))
    poller.collect(0.2)
    assert len(consumer.waits) == 1


def test_a_parked_message_is_told_at_once(clock: Clock) -> None:
    poller, consumer = make_poller(
        clock, Pulled(accepted=("a",), parked=("the message is no JSON object.",))
    )
    summary = poller.collect(20).summary()
    assert summary == "Took 1 jobs from the queue. Parked a message: the message is no JSON object."
    assert len(consumer.waits) == 1


def test_a_queue_that_is_away_is_told_and_left_in_peace_for_longer_and_longer(clock: Clock) -> None:
    poller, consumer = make_poller(clock, *[AWAY] * 100)
    first = poller.collect(20)
    assert first.summary() == f"No job came by the queue. {AWAY} The next try is in 2 s."
    while clock.now < 1000 + 600:
        assert poller.collect(20).problem is AWAY
    assert len(consumer.waits) < 18


def test_a_pause_longer_than_a_tick_is_told_in_each(clock: Clock) -> None:
    poller, consumer = make_poller(clock, *[AWAY] * 6)
    for _ in range(5):
        poller.collect(20)
    tries = len(consumer.waits)
    collected = poller.collect(20)
    assert (collected.problem, len(consumer.waits)) == (AWAY, tries)
    assert collected.pause_seconds > 0


def test_once_it_is_back_everything_is_as_before(clock: Clock) -> None:
    poller, _ = make_poller(clock, AWAY, Pulled(accepted=("a",)))
    assert poller.collect(20).problem
    assert poller.collect(20).summary() == "Took 1 jobs from the queue."


def test_a_store_that_is_away_pauses_it_too(clock: Clock) -> None:
    """Else it would take the same ten messages again and again."""
    problem = StoreUnavailable("the store is away.")
    poller, consumer = make_poller(clock, *[Pulled(left=10, problem=problem)] * 100)
    for _ in range(10):
        assert poller.collect(20).problem is problem
    assert len(consumer.waits) < 10
