"""What a job costs when thousands have gone before it: an instance is filled by real jobs, and at
every level bursts and lone pictures on it are compared with the same on a fresh instance, in turn.
Nothing is pruned meanwhile.
"""

import sqlite3
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from benchmarks.bursts import queue_all, send_one
from benchmarks.options import Options
from benchmarks.pictures import write_scenes
from benchmarks.plots import plot_history
from benchmarks.progress import say
from benchmarks.running_stack import RunningStack, running_stack
from benchmarks.tables import Findings, Row, row_of

MODEL = "demo-yolo"
LEVELS = (0, 1_000, 3_000, 10_000)
QUICK_LEVELS = (0, 300)
WARM_UP = 8
BURST = 100
LONE = 5
FILL_AT_ONCE = 500
GROWTH_LIMIT = 1.2
MONTH = 30 * 86_400
KEEP_ALL: dict[str, Any] = {
    "asset_ttl_seconds": MONTH,
    "run_retention_seconds": MONTH,
    "live_partitions": 1_000_000,
}


@dataclass(frozen=True)
class Cost:
    """What a job costs: seconds and CPU seconds in a burst, and seconds alone."""

    seconds: float
    cpu_seconds: float
    alone_seconds: float


@dataclass(frozen=True)
class Level:
    """Costs after so many jobs and on a fresh instance, in turn, and the bytes that all these jobs
    have left."""

    past_jobs: int
    aged: list[Cost]
    fresh: list[Cost]
    stored: int

    def ratios(self, of: Callable[[Cost], float]) -> list[float]:
        """The aged instance over the fresh one, round by round."""
        return [of(old) / of(new) for old, new in zip(self.aged, self.fresh, strict=True)]


def measure(options: Options) -> Findings:
    """Ratios at every level up to the number of past jobs that was asked for."""
    counts = (
        QUICK_LEVELS if options.quick else [each for each in LEVELS if each <= options.past_jobs]
    )
    levels = measure_levels(options, counts)
    batch = (
        f"in runs of {options.past_batch}" if options.past_batch > 1 else "each in a run of its own"
    )
    rows = [row for level in levels for row in _rows(level)]
    return Findings(
        [*rows, *_growth(levels), Row("how these jobs were run", batch)],
        lambda path: _plot(levels, path),
    )


def _rows(level: Level) -> list[Row]:
    name, target = f"after {level.past_jobs:,} jobs, over a fresh instance:", f"{GROWTH_LIMIT}"
    alone = statistics.median(cost.alone_seconds for cost in level.aged)
    cpu_ms = 1000 * statistics.median(cost.cpu_seconds for cost in level.aged)
    return [
        row_of(f"{name} seconds a job in a burst", level.ratios(lambda cost: cost.seconds),
               target=target),
        row_of(f"{name} CPU a job", level.ratios(lambda cost: cost.cpu_seconds), target=target,
               note=f"{cpu_ms:.0f} ms"),
        row_of(f"{name} a lone job's seconds", level.ratios(lambda cost: cost.alone_seconds),
               target=target,
               note=f"{alone:.2f} s"),
    ]  # fmt: skip


def _growth(levels: Sequence[Level]) -> list[Row]:
    """Bytes a job, level by level; the databases' empty tables are not in them."""
    each = [
        (now.stored - before.stored) / (now.past_jobs - before.past_jobs)
        for before, now in pairwise(levels)
    ]
    return [
        row_of(
            "what a job leaves in Dagster, broker and markers", [size / 1000 for size in each], "kB"
        )
    ]


def _plot(levels: Sequence[Level], path: Path) -> None:
    points = [
        (level.past_jobs, statistics.median(level.ratios(lambda cost: cost.seconds)),
         statistics.median(level.ratios(lambda cost: cost.cpu_seconds)))
        for level in levels
    ]  # fmt: skip
    plot_history(points, GROWTH_LIMIT, path)


def measure_levels(options: Options, counts: Sequence[int]) -> list[Level]:
    """Fills an instance level by level and measures at each."""
    (picture,) = write_scenes(options.folder, 1, width=64, height=64)
    levels = []
    with _instance(options, "aged") as aged:
        _warm_up(aged, picture)
        for count in counts:
            _fill(aged, picture, count)
            levels.append(_measure_level(options, aged, picture, count))
    return levels


def _instance(options: Options, name: str) -> AbstractContextManager[RunningStack]:
    return running_stack(options.folder / name, MODEL, batch_size=options.past_batch, **KEEP_ALL)


def _measure_level(options: Options, aged: RunningStack, picture: Path, past_jobs: int) -> Level:
    stored, jobs = stored_bytes(aged), aged.finished_count()
    with _instance(options, f"fresh-{past_jobs}") as fresh:
        _warm_up(fresh, picture)
        rounds = [
            (_cost(aged, picture, options), _cost(fresh, picture, options))
            for _ in range(options.scaled(5, 2))
        ]
    level = Level(jobs, [old for old, _ in rounds], [new for _, new in rounds], stored)
    median = statistics.median(level.ratios(lambda cost: cost.cpu_seconds))
    say(f"history: after {jobs} jobs a job's CPU is {median:.2f} times that on a fresh instance")
    return level


def _warm_up(stack: RunningStack, picture: Path) -> None:
    """Loads the model, and has a run of each kind."""
    with httpx.Client(base_url=stack.url, timeout=180) as client:
        send_one(client, picture)
    queue_all(stack, [picture] * WARM_UP)


def _cost(stack: RunningStack, picture: Path, options: Options) -> Cost:
    jobs = options.scaled(BURST, BURST // 4)
    burst = queue_all(stack, [picture] * jobs)
    with httpx.Client(base_url=stack.url, timeout=180) as client:
        alone = statistics.median(send_one(client, picture)[0] for _ in range(LONE))
    return Cost(burst.seconds / jobs, burst.cpu_seconds / jobs, alone)


def _fill(stack: RunningStack, picture: Path, wanted: int) -> None:
    while (missing := wanted - stack.finished_count()) > 0:
        burst = queue_all(stack, [picture] * min(missing, FILL_AT_ONCE))
        rate = burst.jobs / burst.seconds
        say(
            f"history: {stack.finished_count()} jobs done, the last {burst.jobs} at {rate:.1f} a"
            " second"
        )


def stored_bytes(stack: RunningStack) -> int:
    """What orchestration keeps: Dagster's databases, the broker's folder and the markers; not the
    jobs' files."""
    data = stack.settings.data_dir
    databases = [*(data / "dagster").rglob("*.db")]
    others = (
        path for name in ("broker", "state") for path in (data / name).rglob("*") if path.is_file()
    )
    return sum(map(_database_bytes, databases)) + sum(path.stat().st_size for path in others)


def _database_bytes(path: Path) -> int:
    """Its pages, those in the write-ahead log included."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    return int(pages) * int(page_bytes)
