"""Dagster's storage on pooled connections, SQLite here and Postgres where a server can be
started."""

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as db
from dagster._core.instance.ref import InstanceRef

from seg_pipeline.runtime import dagster_storage
from seg_pipeline.runtime.dagster_storage import (
    SegPipelineStorage,
    delete_event,
    postgres_url,
    runless_events,
)
from seg_pipeline_tests.conftest import make_settings

CONFIG = {
    "storage": {
        "custom": {
            "module": "seg_pipeline.runtime.dagster_storage",
            "class": "SegPipelineStorage",
            "config": {},
        }
    },
    "telemetry": {"enabled": False},
}


@dg.op
def greet(context: dg.OpExecutionContext) -> None:
    """Something to run."""
    context.log_event(dg.AssetMaterialization("greeting", partition="a"))


@dg.job
def greetings() -> None:
    """A job of one op."""
    greet()


@pytest.fixture
def postgres(postgres_server_url: str) -> str:
    """The URL of an empty database."""
    name = f"test_{secrets.token_hex(4)}"
    engine = db.create_engine(
        postgres_url(f"{postgres_server_url}postgres"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.execute(db.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{postgres_server_url}{name}"


@pytest.fixture(params=["sqlite", "postgres"])
def instance(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance as dagster.yaml configures it."""
    url = request.getfixturevalue("postgres") if request.param == "postgres" else None
    settings = make_settings(tmp_path, database_url=url)
    monkeypatch.setattr(dagster_storage, "get_settings", lambda: settings)
    home = tmp_path / "home"
    home.mkdir()
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides=CONFIG)) as instance:
        yield instance
    for engine in (dagster_storage.sqlite_engine, dagster_storage.postgres_engine):
        engine.cache_clear()


def test_runs_events_and_partitions_are_kept(instance: dg.DagsterInstance) -> None:
    instance.add_dynamic_partitions("jobs", ["a", "b"])
    result = greetings.execute_in_process(instance=instance)
    assert instance.get_run_by_id(result.run_id).status is dg.DagsterRunStatus.SUCCESS  # type: ignore[union-attr]
    assert instance.get_dynamic_partitions("jobs") == ["a", "b"]
    event = instance.get_latest_materialization_event(dg.AssetKey("greeting"))
    assert event is not None
    assert event.run_id == result.run_id


def test_a_deleted_run_takes_what_it_wrote_along(instance: dg.DagsterInstance) -> None:
    run_id = greetings.execute_in_process(instance=instance).run_id
    instance.delete_run(run_id)
    assert instance.fetch_materializations(dg.AssetKey("greeting"), limit=1).records == []


def test_events_of_no_run_can_be_removed_one_by_one_the_oldest_first(
    instance: dg.DagsterInstance,
) -> None:
    greetings.execute_in_process(instance=instance)
    for uuid in ("b", "c"):
        instance.report_runless_asset_event(dg.AssetMaterialization("greeting", partition=uuid))
    assert runless_events(instance, datetime.now(UTC) - timedelta(minutes=1), 10) == []
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    (first,) = runless_events(instance, tomorrow, 1)
    delete_event(instance, first)
    assert instance.get_materialized_partitions(dg.AssetKey("greeting")) == {"a", "c"}
    assert len(runless_events(instance, tomorrow, 10)) == 1


def test_statements_share_connections(instance: dg.DagsterInstance) -> None:
    """As they come, the storages open one for every statement."""
    opened: list[object] = []
    db.event.listen(db.pool.Pool, "connect", lambda connection, _record: opened.append(connection))
    for _ in range(20):
        instance.get_runs(limit=1)
        instance.get_dynamic_partitions("jobs")
    assert len(opened) <= 2


def test_a_tables_shape_is_asked_for_once(instance: dg.DagsterInstance) -> None:
    """As they come, the storages read it from the database before many a statement, which takes
    longer than those."""
    statements: list[str] = []

    def look() -> int:
        statements.clear()
        instance.get_run_records(limit=1)
        instance.has_dynamic_partition("jobs", "a")
        return len(statements)

    def note(_connection: Any, _cursor: Any, text: str, *_: Any) -> None:
        statements.append(text)

    db.event.listen(db.Engine, "before_cursor_execute", note)
    assert look() > 2
    assert look() == 2
    db.event.remove(db.Engine, "before_cursor_execute", note)


def test_the_storage_has_nothing_to_configure() -> None:
    assert SegPipelineStorage.config_type() == {}


def test_a_postgres_url_names_the_driver_that_is_installed() -> None:
    assert (
        postgres_url("postgresql://me:secret@db/name") == "postgresql+psycopg2://me:secret@db/name"
    )
