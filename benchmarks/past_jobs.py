"""A long past, made in SQL: the rows of one real run, copied as if many runs like it had gone
before.

Only Postgres has what this needs. What still lives is in the store as well, with its files and
markers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

import sqlalchemy as db
from sqlalchemy.engine import Engine

from benchmarks.progress import say
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import keys

RUNS_AT_ONCE = 500
TICKS = 20_000
"""Somewhat more than the two days' that are kept of a sensor that waits 20 s in each."""

SPREAD_SECONDS = 0.9 * 86_400
"""Over so long the past is spread; the prune keeps runs for a day."""

ORIGINAL = "past-00000000-"
"""How the uuids of the real run begin."""


def prefix_of(number: int) -> str:
    """How the uuids of a copy begin; copies are numbered from 1, the oldest first."""
    return f"past-{number:08d}-"


def copy_run(engine: Engine, run_id: str, copies: int) -> None:
    """Adds this many copies of a finished run, with its tags, events, and a tick for each."""
    with engine.connect() as connection:
        for first in range(1, copies + 1, RUNS_AT_ONCE):
            last = min(copies, first + RUNS_AT_ONCE - 1)
            for statement in (_COPY_RUNS, _COPY_TAGS, _COPY_EVENTS):
                connection.execute(db.text(statement), _names(run_id, first, last, copies))
            if last % (20 * RUNS_AT_ONCE) == 0 or last == copies:
                say(f"history: {last} of {copies} past runs are written")
        connection.execute(db.text(_COPY_TICKS), {"ticks": min(TICKS, copies)})
        connection.execute(db.text("VACUUM ANALYZE"))  # as the server does by itself within minutes


def _names(run_id: str, first: int, last: int, copies: int) -> dict[str, object]:
    pause = SPREAD_SECONDS / max(1, copies)
    return {
        "run_id": run_id,
        "first": first,
        "last": last,
        "copies": copies,
        "pause": pause,
        "original": ORIGINAL,
    }


_NEW = """
    CROSS JOIN LATERAL (SELECT md5(n::text)::uuid::text AS new_id,
                               'past-' || lpad(n::text, 8, '0') || '-' AS new_name,
                               make_interval(secs => (:copies - n) * :pause) AS age) AS new
"""
_COPIES = f"CROSS JOIN generate_series(CAST(:first AS int), CAST(:last AS int)) AS n {_NEW}"

_COPY_RUNS = f"""
    INSERT INTO runs (run_id, snapshot_id, pipeline_name, mode, status, run_body, partition,
                      partition_set, create_timestamp, update_timestamp, start_time, end_time)
    SELECT new_id, snapshot_id, pipeline_name, mode, status,
           replace(replace(run_body, :run_id, new_id), :original, new_name),
           replace(partition, :original, new_name), partition_set,
           create_timestamp - age, update_timestamp - age,
           start_time - extract(epoch FROM age), end_time - extract(epoch FROM age)
    FROM runs {_COPIES} WHERE run_id = :run_id ORDER BY n
"""
_COPY_TAGS = f"""
    INSERT INTO run_tags (run_id, key, value)
    SELECT new_id, key, replace(replace(value, :run_id, new_id), :original, new_name)
    FROM run_tags {_COPIES} WHERE run_id = :run_id ORDER BY n
"""
_COPY_EVENTS = f"""
    INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key,
                            partition)
    SELECT new_id, replace(replace(event, :run_id, new_id), :original, new_name),
           dagster_event_type,
           timestamp - age, step_key, asset_key, replace(partition, :original, new_name)
    FROM event_logs {_COPIES} WHERE run_id = :run_id ORDER BY n, event_logs.id
"""
_COPY_TICKS = """
    INSERT INTO job_ticks (job_origin_id, selector_id, status, type, timestamp, tick_body)
    SELECT job_origin_id, selector_id, status, type, timestamp - make_interval(secs => 4 * n),
           tick_body
    FROM (SELECT * FROM job_ticks WHERE status = 'SUCCESS' ORDER BY id DESC LIMIT 1) AS last_tick
    CROSS JOIN generate_series(1, :ticks) AS n
"""


def register(engine: Engine, uuids: Sequence[str]) -> None:
    """Registers them as partitions, in this order."""
    statement = (
        "INSERT INTO dynamic_partitions (partitions_def_name, partition) VALUES ('jobs', :uuid)"
    )
    with engine.connect() as connection:
        connection.execute(db.text(statement), [{"uuid": uuid} for uuid in uuids])
        connection.execute(db.text("ANALYZE dynamic_partitions"))


def age_runs(engine: Engine, count: int) -> None:
    """Makes the oldest runs so old that the next prune takes them."""
    oldest = "SELECT id FROM runs WHERE status = 'SUCCESS' ORDER BY id LIMIT :count"
    statement = (
        "UPDATE runs SET create_timestamp = create_timestamp - interval '30 days' WHERE id IN"
        f" ({oldest})"
    )
    with engine.connect() as connection:
        connection.execute(db.text(statement), {"count": count})


def keep_alive(
    repository: JobRepository, finished: str, uuids: Iterable[str], expires_at: datetime
) -> None:
    """Puts each of them into the store as a finished job, with the request and the result of a real
    one."""
    request, result = repository.store.get(keys.request(finished)), repository.result(finished)
    assert result is not None
    for uuid in uuids:
        repository.store.put(keys.request(uuid), request.replace(finished.encode(), uuid.encode()))
        repository.results.finish(replace(result, uuid=uuid, expires_at=expires_at))
