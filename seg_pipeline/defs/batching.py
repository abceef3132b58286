"""How waiting jobs are shared out over runs: one picture a run when it is quiet, full batches under
load."""

from collections.abc import Sequence
from math import ceil

RUNS_PER_WORKER = 2
"""One that executes and one that waits, so that a worker is never idle and the next batch has time
to fill. What is not asked for costs nobody anything: a million waiting jobs are a million markers,
and no more."""


def room_for_runs(runs_in_progress: int, workers: int) -> int:
    """How many more runs to ask for now; 0 while every worker has enough to do. Without a worker,
    as for one."""
    return max(0, RUNS_PER_WORKER * max(workers, 1) - runs_in_progress)


def split_into_batches(uuids: Sequence[str], workers: int, batch_size: int) -> list[list[str]]:
    """The jobs in runs of at most `batch_size`, shared evenly over the workers, in their order."""
    if not uuids:
        return []
    size = min(batch_size, ceil(len(uuids) / max(workers, 1)))
    return [list(uuids[start : start + size]) for start in range(0, len(uuids), size)]
