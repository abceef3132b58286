"""Lets folders have any name, also one with `[ ] ? % #` in it.

Dagster reads the path of dagster.yaml as a glob pattern, finds nothing, and silently takes its
defaults. It also makes URLs of its databases' paths without escaping them, so that they lie beside
the folder. Alembic's configuration takes a `%` for the start of a placeholder.
"""

import glob
from collections.abc import Mapping
from configparser import ConfigParser
from pathlib import Path

import sqlalchemy as db
from alembic import config as alembic_config
from dagster._core.instance import config as instance_config
from dagster._core.storage.event_log.sqlite import consolidated_sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
from dagster_shared.yaml_utils import load_yaml_from_globs

_SQLITE_STORAGES = (consolidated_sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage)


class _LiteralParser(ConfigParser):
    """A parser without placeholders: Dagster's files for Alembic need none."""

    def __init__(self, defaults: Mapping[str, str]) -> None:
        super().__init__(defaults, interpolation=None)


def take_paths_literally() -> None:
    """Replaces upstream's ways of reading a path. Call it before the first instance is made."""
    instance_config.load_yaml_from_globs = _load_yaml  # type: ignore[assignment, attr-defined]
    for module in _SQLITE_STORAGES:
        module.create_db_conn_string = sqlite_url  # type: ignore[attr-defined]
    alembic_config.ConfigParser = _LiteralParser  # type: ignore[assignment, attr-defined]


def sqlite_url(folder: str, name: str) -> str:
    """The URL of a database in a folder. SQLAlchemy (from 2.1 on) reads the same path back."""
    path = Path(folder).absolute() / f"{name}.db"
    return db.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def _load_yaml(path: str) -> Mapping[object, object]:
    return load_yaml_from_globs(glob.escape(path))
