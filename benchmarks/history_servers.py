"""What things cost on a Postgres with a long past, over the same on an empty one of the same
server, in turn.

The past is made in SQL (`past_jobs.py`); a tick, a run, recovery, callbacks, the UI's pages and the
prune are real.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as db

from benchmarks.costs import Cost
from benchmarks.options import Options
from benchmarks.progress import say
from benchmarks.running_stack import running_servers
from benchmarks.tables import Row, row_of
from seg_pipeline.runtime.dagster_storage import postgres_url

GROWTH_LIMIT = 1.3
ROUNDS = 5
EMPTY_PAST = 10 * (ROUNDS + 1)
"""Runs that the empty one has, since the prune needs something to remove: as many as it takes in
all rounds."""

WORK = {
    "tick": "a tick with a batch: its claims, partitions and run",
    "run": "a run of the batch",
    "recover": "a look of recovery at 16 claims",
    "relay": "16 callbacks reported",
    "runs_page": "the UI's page of runs",
    "partitions_page": "the UI's page of partitions",
    "prune": "a prune of 10 runs and their jobs",
}


@dataclass
class Child:
    """A process that serves one instance, and what its work took."""

    process: subprocess.Popen[str]
    costs: dict[str, list[Cost]] = field(default_factory=dict)

    def ask(self, word: str) -> Cost:
        """Has it do something; what that took."""
        assert self.process.stdin
        assert self.process.stdout
        print(word, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{word} failed; its log says why")
        return Cost.parse(answer)

    def measure(self, word: str) -> None:
        """Has it do something, and keeps what that took."""
        self.costs.setdefault(word, []).append(self.ask(word))


def measure(options: Options) -> list[Row]:
    """Ratios, work by work."""
    past_jobs = options.scaled(options.past_jobs, 800)
    rounds = options.scaled(ROUNDS, 2)
    with (
        running_servers(options.folder / "servers") as servers,
        instance_child(options, "aged", servers) as aged,
        instance_child(options, "empty", servers) as empty,
    ):
        for child, past in ((aged, past_jobs), (empty, EMPTY_PAST * options.past_batch)):
            child.ask("begin")
            say(f"history: {past} past jobs took {child.ask(f'grow {past}').seconds:.0f} s")
        _take_turns(aged, empty, rounds)
    return [_row(word, aged, empty, past_jobs) for word in WORK]


def _take_turns(aged: Child, empty: Child, rounds: int) -> None:
    """A round that does not count, then those that do."""
    for number in range(rounds + 1):
        for word in WORK:
            for child in (aged, empty) if number % 2 else (empty, aged):
                child.measure(word) if number else child.ask(word)
        say(f"history: round {number} of {rounds}")


def _row(word: str, aged: Child, empty: Child, past_jobs: int) -> Row:
    old, new = ([cost.seconds for cost in child.costs[word]] for child in (aged, empty))
    statements = " and ".join(str(child.costs[word][-1].statements) for child in (aged, empty))
    note = f"{1000 * min(old):.0f} over {1000 * min(new):.0f} ms at best, {statements} statements"
    ratios = [one / other for one, other in zip(old, new, strict=True)]
    name = f"after {past_jobs:,} jobs, over an empty instance: {WORK[word]}"
    return row_of(name, ratios, target=f"{GROWTH_LIMIT}", note=note)


@contextmanager
def instance_child(options: Options, name: str, servers: Mapping[str, str]) -> Iterator[Child]:
    """A process on a database of its own."""
    environment = {
        **os.environ, **servers, "DATABASE_URL": _make_database(servers["DATABASE_URL"], name),
        "DATA_DIR": str(options.folder / name), "MODEL": "demo-yolo", "CELERY_QUEUE": name,
        "TICK_SECONDS": "20", "BATCH_SIZE": str(options.past_batch),
    }  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.one_instance", str(options.past_batch)]
    pipe = subprocess.PIPE
    with (
        (options.folder / f"{name}.log").open("w") as log,
        subprocess.Popen(
            command, env=environment, cwd=_PROJECT, stdin=pipe, stdout=pipe, stderr=log, text=True
        ) as process,
    ):
        try:
            yield Child(process)
        finally:
            assert process.stdin
            process.stdin.close()


def _make_database(url: str, name: str) -> str:
    engine = db.create_engine(postgres_url(url), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(db.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{url.rpartition('/')[0]}/{name}"


_PROJECT = Path(__file__).parent.parent
