"""How waiting jobs are shared out over runs: one picture a run when it is quiet, full batches under load."""

from collections.abc import Sequence
from math import ceil

RUNS_PER_WORKER = 2
"""One that executes and one that waits, so that a worker is never idle and the next batch has time to fill."""


def may_claim(waiting: int, runs_in_progress: int, workers: int, batch_size: int) -> bool:
    """Whether to take what waits now. While every worker has enough to do, less than a full batch is left to grow."""
    return waiting >= batch_size or (waiting > 0 and runs_in_progress < RUNS_PER_WORKER * max(workers, 1))


def split_into_batches(uuids: Sequence[str], workers: int, batch_size: int) -> list[list[str]]:
    """The jobs in runs of at most `batch_size`, shared evenly over the workers, in their order."""
    if not uuids:
        return []
    size = min(batch_size, ceil(len(uuids) / max(workers, 1)))
    return [list(uuids[start : start + size]) for start in range(0, len(uuids), size)]
