"""Dagster instances on the storage of the product, for tests of what is kept there."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as db
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.event_log import in_memory as event_logs
from dagster._core.storage.runs import in_memory as runs

from seg_pipeline.runtime import dagster_storage
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


def make_database(server_url: str) -> str:
    """The URL of an empty database on a Postgres server, whose URL ends with a slash."""
    name = f"test_{secrets.token_hex(4)}"
    engine = db.create_engine(
        dagster_storage.postgres_url(f"{server_url}postgres"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.execute(db.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{server_url}{name}"


@contextmanager
def configured_instance(
    folder: Path, monkeypatch: pytest.MonkeyPatch, database_url: str | None = None
) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance as dagster.yaml configures it, on SQLite unless a URL is given."""
    settings = make_settings(folder, database_url=database_url)
    monkeypatch.setattr(dagster_storage, "get_settings", lambda: settings)
    home = folder / "home"
    home.mkdir()
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides=CONFIG)) as instance:
        yield instance
    for engine in (dagster_storage.sqlite_engine, dagster_storage.postgres_engine):
        engine.cache_clear()


def share_migrations() -> None:
    """Lets Dagster's instances in memory share the migrations that mark their tables' version.
    Dagster reads 90 for each of them, which computes for 50 ms."""
    for module in (event_logs, runs):
        module.stamp_alembic_rev = stamp  # type: ignore[attr-defined]


def stamp(config: Config, connection: db.Connection, rev: str = "head") -> None:
    """Marks the tables as those of the revision, as `alembic stamp` does."""
    MigrationContext.configure(connection).stamp(_scripts(config.config_file_name), rev)


@cache
def _scripts(config_file: str) -> ScriptDirectory:
    return ScriptDirectory.from_config(Config(config_file))
