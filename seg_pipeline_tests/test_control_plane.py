"""What it takes to ask for a run, which one daemon does for all workers: it must not grow with the
jobs in the run, statement by statement."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.history_servers import instance_child
from benchmarks.options import Options

JOBS_IN_RUN = 32
STATEMENTS = 120


@pytest.mark.slow
def test_asking_for_a_run_of_32_jobs_takes_few_statements(
    tmp_path: Path, postgres_server_url: str, redis_url: str
) -> None:
    """A whole tick of the inbox's sensor on Postgres: claims, partitions, the run's rows and what
    it plans, its launch. It took 563 when each planned event was stored alone."""
    servers = {"DATABASE_URL": f"{postgres_server_url}postgres", "BROKER_URL": f"{redis_url}9"}
    options = replace(Options(tmp_path), past_batch=JOBS_IN_RUN)
    with instance_child(options, "control_plane", servers) as child:
        child.ask("begin")
        assert child.ask("tick").statements < STATEMENTS
