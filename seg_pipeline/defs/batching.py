"""How waiting jobs are grouped into runs: single jobs when it is quiet, full batches under load."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from seg_pipeline.domain import Lane

RUNS_PER_WORKER = 2
"""One that executes and one that waits: no worker idles, and the next batch has time to fill.

Further jobs wait as markers, which cost nothing else.
"""


RUN_SECONDS = 40.0
"""Of all stages, in a run of a client's batch. They overlap, so that it lasts half of it or so. A
run costs half a second of a core, however many pictures it has. Another batch waits for it; jobs of
other lanes do not."""

FIRST_SIZE = 16
"""Pictures of such a run while it is not known how long one takes."""

FAILED_RUN_PAUSE_SECONDS = 1.0
"""The pause between two runs that only record a failed fetch, while other jobs wait."""

QUIET_SECONDS = 10.0
"""After so long without a picture nobody is held up, and such runs follow one another."""


@dataclass(frozen=True)
class RunUnderWay:
    """A run that was requested and has not ended: a worker executes it, or it waits for one.

    One that no sensor requested, such as a backfill's, never gives way.
    """

    run_id: str
    lane: Lane
    is_executing: bool
    may_give_way: bool = True


class FailedRunPace:
    """When a run may be requested for a job without a picture.

    Its end is not urgent, and each such run takes a worker's time from waiting jobs.
    """

    def __init__(self) -> None:
        self._ready_at = self._failed_at = float("-inf")

    def note_ready(self, now: float) -> None:
        """Records a job with a picture; `now` is monotonic, in seconds."""
        self._ready_at = now

    def note_asked(self, now: float) -> None:
        """Records the request of a run for a job without a picture."""
        self._failed_at = now

    def allows(self, now: float) -> bool:
        """Whether such a run may be requested now."""
        is_quiet = now - self._ready_at >= QUIET_SECONDS
        return is_quiet or now - self._failed_at >= FAILED_RUN_PAUSE_SECONDS


def room_for_runs(runs_in_progress: int, workers: int) -> int:
    """How many more runs to request now; 0 while every worker has enough to do.

    No worker counts as one.
    """
    return max(0, RUNS_PER_WORKER * max(workers, 1) - runs_in_progress)


def runs_to_give_way(
    wanted: Sequence[Lane], under_way: Sequence[RunUnderWay], workers: int
) -> list[str]:
    """Which runs give way to those that wait, and to those that are `wanted` beside them.

    A run gives way to one of an earlier lane. None does for a run that an idle worker takes.
    """
    executing = [run for run in under_way if run.is_executing]
    waiting = [*wanted, *(run.lane for run in under_way if not run.is_executing)]
    left = sorted(waiting)[max(0, workers - len(executing)) :]
    candidates = [run for run in executing if run.may_give_way]
    latest_first = sorted(candidates, key=lambda run: run.lane, reverse=True)
    pairs = zip(left, latest_first, strict=False)
    return [run.run_id for lane, run in pairs if lane < run.lane]


def size_for_batches(picture_seconds: float | None, batch_size: int) -> int:
    """How many pictures of a client's batch one run takes: such that it lasts some seconds.

    Another batch waits for the runs that a worker has in hand. `picture_seconds` are those of all
    stages, None if not known yet.
    """
    if picture_seconds is None:
        return min(FIRST_SIZE, batch_size)
    return max(1, min(batch_size, int(RUN_SECONDS / max(picture_seconds, 0.001))))


def split_into_batches(
    uuids: Sequence[str], workers: int, batch_size: int, waiting: int | None = None
) -> list[list[str]]:
    """The jobs in runs of at most `batch_size`, in order, spread evenly over the workers.

    `waiting` is how many jobs wait in all, if these are only some of them. What is left over needs
    no share of a run's room: the workers are busy with it later.
    """
    if not uuids:
        return []
    size = min(batch_size, ceil(max(len(uuids), waiting or 0) / max(workers, 1)))
    return [list(uuids[start : start + size]) for start in range(0, len(uuids), size)]
