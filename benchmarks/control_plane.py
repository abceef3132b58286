"""What a job costs outside of its stages, by the number of jobs in a run: the tick that asks for
the run, and the run.

A part of both is spent once a run, whatever is in it, and that part is what batches make small.
"""

import time
from dataclasses import replace

from benchmarks.costs import Cost
from benchmarks.history_servers import Child, instance_child
from benchmarks.options import Options
from benchmarks.progress import say
from benchmarks.running_stack import running_servers
from benchmarks.tables import Row, row_of

BATCHES = (1, 8, 32, 128)
TIMES = 4
PAUSE_SECONDS = 2.0
"""Between ticks. One that begins within a second of the last finds nothing to do."""


def measure(options: Options) -> list[Row]:
    """CPU milliseconds and statements a job, on Postgres; pictures of 64x64 with demo-yolo."""
    rows = []
    with running_servers(options.folder / "servers") as servers:
        for batch in BATCHES:
            sized = replace(options, past_batch=batch)
            with instance_child(sized, f"batch_{batch}", servers) as child:
                child.ask("begin")
                rows += _rows(child, batch, options.scaled(TIMES, 2))
            say(f"control_plane: runs of {batch}")
    return rows


def _rows(child: Child, batch: int, times: int) -> list[Row]:
    for _ in range(times):
        time.sleep(PAUSE_SECONDS)
        child.measure("tick")
        child.measure("run")
    return [
        _row("its tick and launch", child.costs["tick"], batch),
        _row("its run", child.costs["run"], batch),
    ]


def _row(what: str, costs: list[Cost], batch: int) -> Row:
    statements = sum(cost.statements for cost in costs) / len(costs) / batch
    cpu_ms = [1000 * cost.cpu_seconds / batch for cost in costs]
    return row_of(
        f"CPU a job, {batch} in a run: {what}",
        cpu_ms,
        "ms",
        note=f"{statements:.1f} statements a job",
    )
