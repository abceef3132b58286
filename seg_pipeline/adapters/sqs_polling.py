"""Brings in what the queue has, for as long as a tick lasts, and leaves it in peace while it is
away."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from seg_pipeline.adapters.sqs_consumer import SqsConsumer
from seg_pipeline.errors import QueueUnavailable, SegPipelineError
from seg_pipeline.jobs.backoff import Backoff

LONGEST_PAUSE_SECONDS = 60.0
SHORTEST_POLL_SECONDS = 1.0
"""SQS counts a long poll in whole seconds; a shorter one would return at once, and again and
again."""


@dataclass
class PollResult:
    """What came in: how many messages are jobs now, why others were parked, and what went wrong, if
    anything did."""

    jobs: int = 0
    parked: list[str] = field(default_factory=list)
    problem: SegPipelineError | None = None
    pause_seconds: float = 0

    def summary(self) -> str:
        """One sentence or a few, for the tick."""
        sentences = [
            f"Took {self.jobs} jobs from the queue." if self.jobs else "No job came by the queue."
        ]
        sentences += [f"Parked a message: {reason}" for reason in self.parked]
        if self.problem:
            sentences.append(f"{self.problem} The next try is in {self.pause_seconds:.0f} s.")
        return " ".join(sentences)


class SqsPoller:
    """One per process: it remembers how often the queue was away."""

    def __init__(
        self,
        consumer: SqsConsumer,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        backoff: Backoff | None = None,
    ) -> None:
        self._intake = consumer
        self._clock = clock
        self._sleep = sleep
        self._backoff = backoff or Backoff(LONGEST_PAUSE_SECONDS)
        self._problem: SegPipelineError | None = None

    def collect(self, seconds: float) -> PollResult:
        """Pulls for so long, or until there is something that somebody should know."""
        collected, deadline = PollResult(), self._clock() + seconds
        while True:
            if not self._rest(deadline):
                return self._with_problem(collected)
            self._pull(collected, deadline - self._clock())
            if self._problem or collected.parked:
                return self._with_problem(collected)
            if deadline - self._clock() < SHORTEST_POLL_SECONDS:
                return collected

    def _rest(self, deadline: float) -> bool:
        """Waits for the next try; False if that is after the deadline."""
        now = self._clock()
        pause = self._backoff.wait_seconds(now)
        if pause:
            self._sleep(max(0.0, min(pause, deadline - now)))
        return now + pause <= deadline

    def _pull(self, collected: PollResult, seconds: float) -> None:
        try:
            pulled = self._intake.pull(seconds)
        except QueueUnavailable as error:
            self._problem = error
        else:
            collected.jobs += len(pulled.accepted)
            collected.parked += pulled.parked
            self._problem = pulled.problem
        if self._problem:
            self._backoff.failed(self._clock())
        else:
            self._backoff.worked()

    def _with_problem(self, collected: PollResult) -> PollResult:
        collected.problem = self._problem
        collected.pause_seconds = self._backoff.wait_seconds(self._clock())
        return collected
