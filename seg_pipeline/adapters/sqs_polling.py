"""Polls the queue for as long as a tick lasts, with growing pauses while it is unavailable."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from seg_pipeline.adapters.sqs_consumer import SqsConsumer
from seg_pipeline.errors import QueueUnavailable, SegPipelineError
from seg_pipeline.jobs.backoff import Backoff

LONGEST_PAUSE_SECONDS = 60.0
SHORTEST_POLL_SECONDS = 1.0
"""SQS counts a long poll in whole seconds. A shorter one would return at once, again and again."""


@dataclass
class PollResult:
    """How many messages became jobs, why others were parked, and what went wrong, if anything."""

    jobs: int = 0
    parked: list[str] = field(default_factory=list)
    problem: SegPipelineError | None = None
    pause_seconds: float = 0

    def summary(self) -> str:
        """A few sentences for the tick."""
        sentences = [
            f"Took {self.jobs} jobs from the queue." if self.jobs else "No job came by the queue."
        ]
        sentences += [f"Parked a message: {reason}" for reason in self.parked]
        if self.problem:
            sentences.append(f"{self.problem} The next try is in {self.pause_seconds:.0f} s.")
        return " ".join(sentences)


class SqsPoller:
    """One per process: it remembers how often the queue was unavailable."""

    def __init__(
        self,
        consumer: SqsConsumer,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        backoff: Backoff | None = None,
    ) -> None:
        self._consumer = consumer
        self._clock = clock
        self._sleep = sleep
        self._backoff = backoff or Backoff(LONGEST_PAUSE_SECONDS)
        self._problem: SegPipelineError | None = None

    def collect(self, seconds: float) -> PollResult:
        """Pulls for so many seconds, or until there is something to report."""
        result, deadline = PollResult(), self._clock() + seconds
        while True:
            if not self._rest(deadline):
                return self._with_problem(result)
            self._pull(result, deadline - self._clock())
            if self._problem or result.parked:
                return self._with_problem(result)
            if deadline - self._clock() < SHORTEST_POLL_SECONDS:
                return result

    def _rest(self, deadline: float) -> bool:
        """Waits for the next try. Returns False if that is after the deadline."""
        now = self._clock()
        pause = self._backoff.wait_seconds(now)
        if pause:
            self._sleep(max(0.0, min(pause, deadline - now)))
        return now + pause <= deadline

    def _pull(self, result: PollResult, seconds: float) -> None:
        try:
            pulled = self._consumer.pull(seconds)
        except QueueUnavailable as error:
            self._problem = error
        else:
            result.jobs += len(pulled.accepted)
            result.parked += pulled.parked
            self._problem = pulled.problem
        if self._problem:
            self._backoff.failed(self._clock())
        else:
            self._backoff.worked()

    def _with_problem(self, result: PollResult) -> PollResult:
        result.problem = self._problem
        result.pause_seconds = self._backoff.wait_seconds(self._clock())
        return result
