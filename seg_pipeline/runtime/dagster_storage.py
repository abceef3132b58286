"""Dagster's storage with pooled connections: SQLite in a folder, or Postgres at DATABASE_URL.

Dagster's own storages open a connection for every statement, and read a table's columns before many
of them. One engine per process and one look at each table are the largest savings of a run
(`docs/architecture.md` has the figures).
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property, lru_cache, wraps
from pathlib import Path
from typing import Any

import sqlalchemy as db
from dagster import AssetKey, DagsterEventType, DagsterInstance, EventLogEntry
from dagster._core.instance import RUNLESS_RUN_ID
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.event_log import ConsolidatedSqliteEventLogStorage, SqlEventLogStorage
from dagster._core.storage.event_log.base import EventLogStorage
from dagster._core.storage.event_log.schema import DynamicPartitionsTable, SqlEventLogStorageTable
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.runs.base import RunStorage
from dagster._core.storage.schedules import SqliteScheduleStorage
from dagster._core.storage.schedules.base import ScheduleStorage
from dagster._serdes import ConfigurableClassData
from dagster_postgres import PostgresEventLogStorage, PostgresRunStorage, PostgresScheduleStorage
from sqlalchemy.engine import Connection, Engine

from seg_pipeline.runtime.configured import ConfiguredBySettings
from seg_pipeline.runtime.literal_paths import take_paths_literally
from seg_pipeline.settings import get_settings

SQLITE_BUSY_SECONDS = 30

PLANNED_AT_ONCE = 1000
"""Planned events in one INSERT: seven values each, and SQLite takes 32,766 in a statement."""


@lru_cache(maxsize=8)
def sqlite_engine(url: str) -> Engine:
    """One pooled engine per database file and process.

    A commit survives a killed process. The last commits before a power cut may be lost
    (`synchronous=NORMAL`). Recovery then repairs them, because the store is the truth.
    """
    engine = db.create_engine(
        url, pool_size=8, max_overflow=24, connect_args={"timeout": SQLITE_BUSY_SECONDS}
    )
    db.event.listen(engine, "connect", _make_quick)
    return engine


def _make_quick(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


@lru_cache(maxsize=2)
def postgres_engine(url: str) -> Engine:
    """One pooled engine per process for all three storages."""
    return db.create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=4,
        max_overflow=16,
        pool_recycle=600,
        pool_pre_ping=True,
    )


def postgres_url(url: str) -> str:
    """The URL with the driver that dagster-postgres brings.

    SQLAlchemy 2.1 takes psycopg 3 for `postgresql://`.
    """
    return str(
        db.make_url(url).set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)
    )


def _until_true(method: Callable[..., bool]) -> Callable[..., bool]:
    """Wraps a method to call it no more once it has returned True: tables are never removed."""

    @wraps(method)
    def ask(self: Any, *arguments: Any) -> bool:
        known_true = self.__dict__.setdefault("_true_ones", set())
        call = (
            method.__name__,
            *(each for each in arguments if not isinstance(each, Connection)),
        )
        if call not in known_true and method(self, *arguments):
            known_true.add(call)
        return call in known_true

    return ask


class _PlannedTogether(SqlEventLogStorage):
    """Stores a run's planned events in one INSERT, and then each of its assets once.

    Upstream's storages do both event by event.
    """

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        types = {event.dagster_event_type for event in events}
        if types != {DagsterEventType.ASSET_MATERIALIZATION_PLANNED}:
            super().store_event_batch(events)
            return
        with self.index_transaction() as connection:
            connection.execute(self.prepare_insert_event_batch(events))
            # In the order of the events, which Dagster sorts by asset: two runs that lock these
            # rows in one order never wait for each other in a circle.
            for last in {event.get_dagster_event().asset_key: event for event in events}.values():
                self._store_asset_event(connection, last, _NO_ID)


_NO_ID = 0
"""What is kept of a planned event with its asset has no event's number in it."""


class _MaterializedTogether(SqlEventLogStorage):
    """Stores the materialisations that a stage logs in one INSERT, and then their asset once.

    Upstream stores each in three statements, and what it keeps of the asset is written over by the
    next.
    """

    @cached_property
    def _waiting(self) -> threading.local:
        return threading.local()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Stores what this thread logs meanwhile when the block ends, however it ends."""
        self._waiting.events = events = list[EventLogEntry]()
        try:
            yield
        finally:
            del self._waiting.events
            for asset_key in {event.get_dagster_event().asset_key: None for event in events}:
                self._store_of_one_asset(
                    [each for each in events if each.get_dagster_event().asset_key == asset_key]
                )

    def store_event(self, event: EventLogEntry) -> None:
        waiting = getattr(self._waiting, "events", None)
        if waiting is None or event.dagster_event_type != DagsterEventType.ASSET_MATERIALIZATION:
            super().store_event(event)
        else:
            waiting.append(event)

    def _store_of_one_asset(self, events: Sequence[EventLogEntry]) -> None:
        with self.index_transaction() as connection:
            insert = self.prepare_insert_event_batch(events)
            # The numbers come in no certain order, but were given in that of the events.
            ids = sorted(
                connection.execute(insert.returning(SqlEventLogStorageTable.c.id)).scalars()
            )
            self._store_asset_event_tags(connection, events, ids)
            self._store_asset_event(connection, events[-1], ids[-1])


FEW_KEYS = 1000
"""To so many upstream's question about keys is one statement."""


class _QuickStatus(SqlEventLogStorage):
    """Answers upstream's queries for the page of an asset's partitions with fewer statements.

    Whenever a key was added, that page queries every partition.
    """

    def get_existing_dynamic_partitions(
        self, partitions_def_name: str, partition_keys: Sequence[str]
    ) -> AbstractSet[str]:
        """Lists the keys once where many are asked about; upstream asks a thousand at a time."""
        if len(partition_keys) <= FEW_KEYS:
            return super().get_existing_dynamic_partitions(partitions_def_name, partition_keys)
        return {*self.get_dynamic_partitions(partitions_def_name)}.intersection(partition_keys)

    def get_latest_asset_partition_materialization_attempts_without_materializations(
        self, asset_key: AssetKey, after_storage_id: int | None = None
    ) -> Mapping[str, tuple[str, int]]:
        """Reads the latest events' numbers from the index, and only the rows that count.

        Upstream reads both rows of every partition, twice.
        """
        planned, done = (
            self.get_latest_storage_id_by_partition(asset_key, kind, after_cursor=after_storage_id)
            for kind in (
                DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
                DagsterEventType.ASSET_MATERIALIZATION,
            )
        )
        open_ones = {each: at for each, at in planned.items() if done.get(each, 0) < at}
        run_ids = self._run_ids_of([*open_ones.values()])
        return {each: (run_ids[at], at) for each, at in open_ones.items() if at in run_ids}

    def _run_ids_of(self, event_ids: Sequence[int]) -> dict[int, str]:
        """By the event's number; without those that are gone by now."""
        events, found = SqlEventLogStorageTable.c, dict[int, str]()
        with self.index_connection() as connection:
            for start in range(0, len(event_ids), FEW_KEYS):
                wanted = events.id.in_(event_ids[start : start + FEW_KEYS])
                rows = connection.execute(db.select(events.id, events.run_id).where(wanted))
                found.update((event_id, run_id) for event_id, run_id in rows)
        return found


class _PooledSqliteRuns(SqliteRunStorage):
    has_run_stats_index_cols = _until_true(SqliteRunStorage.has_run_stats_index_cols)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        with sqlite_engine(self._conn_string).begin() as connection:
            yield connection


class _PooledSqliteSchedules(SqliteScheduleStorage):
    has_built_index = _until_true(SqliteScheduleStorage.has_built_index)
    _has_instigators_table = _until_true(SqliteScheduleStorage._has_instigators_table)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        with sqlite_engine(self._conn_string).begin() as connection:
            yield connection


class _PooledSqliteEvents(
    _PlannedTogether, _MaterializedTogether, _QuickStatus, ConsolidatedSqliteEventLogStorage
):
    _has_asset_key_col_on_connection = _until_true(
        ConsolidatedSqliteEventLogStorage._has_asset_key_col_on_connection
    )

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        with sqlite_engine(self._conn_string).begin() as connection:
            yield connection

    @_until_true
    def has_table(self, table_name: str) -> bool:
        return bool(db.inspect(sqlite_engine(self._conn_string)).has_table(table_name))


class _PooledPostgresRuns(PostgresRunStorage):
    has_run_stats_index_cols = _until_true(PostgresRunStorage.has_run_stats_index_cols)

    def optimize_for_webserver(
        self, statement_timeout: int, pool_recycle: int, max_overflow: int
    ) -> None:
        """Does nothing: the engine is pooled from the start."""


class _PooledPostgresEvents(
    _PlannedTogether, _MaterializedTogether, _QuickStatus, PostgresEventLogStorage
):
    has_table = _until_true(PostgresEventLogStorage.has_table)
    _has_asset_key_col_on_connection = _until_true(
        PostgresEventLogStorage._has_asset_key_col_on_connection
    )

    def optimize_for_webserver(
        self, statement_timeout: int, pool_recycle: int, max_overflow: int
    ) -> None:
        """Does nothing: the engine is pooled from the start."""


class _PooledPostgresSchedules(PostgresScheduleStorage):
    has_built_index = _until_true(PostgresScheduleStorage.has_built_index)
    _has_instigators_table = _until_true(PostgresScheduleStorage._has_instigators_table)

    def optimize_for_webserver(
        self, statement_timeout: int, pool_recycle: int, max_overflow: int
    ) -> None:
        """Does nothing: the engine is pooled from the start."""


Storages = tuple[RunStorage[Any], EventLogStorage[Any], ScheduleStorage[Any]]


def _sqlite_storages(folder: Path) -> Storages:
    runs, schedules = _sqlite_urls(folder)
    return (
        _PooledSqliteRuns(runs),
        _PooledSqliteEvents(str(folder)),
        _PooledSqliteSchedules(schedules),
    )


@lru_cache(maxsize=8)
def _sqlite_urls(folder: Path) -> tuple[str, str]:
    """The URLs of runs and schedules.

    Their tables are made or checked once per process: the code server makes an instance for each
    call.
    """
    runs, schedules = (
        _PooledSqliteRuns.from_local(str(folder)),
        _PooledSqliteSchedules.from_local(str(folder)),
    )
    return runs._conn_string, schedules._conn_string


def _postgres_storages(url: str) -> Storages:
    storages = (_PooledPostgresRuns(url), _PooledPostgresEvents(url), _PooledPostgresSchedules(url))
    for storage in storages:
        storage._engine = postgres_engine(url)
    return storages


class SegPipelineStorage(ConfiguredBySettings, DagsterStorage[DagsterInstance]):
    """Runs, events and schedules in DATA_DIR/dagster, or in the database at DATABASE_URL."""

    @cached_property
    def _storages(self) -> Storages:
        take_paths_literally()
        settings = get_settings()
        if settings.database_url:
            return _postgres_storages(postgres_url(settings.database_url))
        folder = settings.data_dir / "dagster"
        folder.mkdir(parents=True, exist_ok=True)
        return _sqlite_storages(folder.absolute())

    def register_instance(self, instance: DagsterInstance) -> None:
        """Registers the instance with the three storages."""
        super().register_instance(instance)
        for storage in self._storages:
            if not storage.has_instance:
                storage.register_instance(instance)

    @property
    def run_storage(self) -> RunStorage[Any]:
        """Runs, tags, partition keys and daemon heartbeats."""
        return self._storages[0]

    @property
    def event_log_storage(self) -> EventLogStorage[Any]:
        """Events and materialisations."""
        return self._storages[1]

    @property
    def schedule_storage(self) -> ScheduleStorage[Any]:
        """Ticks and cursors."""
        return self._storages[2]

    @property
    def run_storage_data(self) -> ConfigurableClassData | None:
        """None: the three are never configured apart."""
        return None

    @property
    def event_storage_data(self) -> ConfigurableClassData | None:
        """None: the three are never configured apart."""
        return None

    @property
    def schedule_storage_data(self) -> ConfigurableClassData | None:
        """None: the three are never configured apart."""
        return None


def plan_together() -> None:
    """Makes this process store a run's planned events in batches.

    Upstream reads the environment for that each time.
    """
    os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", str(PLANNED_AT_ONCE))


def runless_events(instance: DagsterInstance, before: datetime, limit: int) -> list[int]:
    """The ids of events that belong to no run, such as the outbox relay's, oldest first.

    Deleting runs does not remove them.
    """
    events = SqlEventLogStorageTable.c
    old = (events.run_id == RUNLESS_RUN_ID) & (
        events.timestamp < before.astimezone(UTC).replace(tzinfo=None)
    )
    with _events_of(instance).index_connection() as connection:
        return [
            *connection.execute(
                db.select(events.id).where(old).order_by(events.id).limit(limit)
            ).scalars()
        ]


def delete_event(instance: DagsterInstance, event_id: int) -> None:
    """Removes one event."""
    with _events_of(instance).index_connection() as connection:
        connection.execute(
            SqlEventLogStorageTable.delete().where(SqlEventLogStorageTable.c.id == event_id)
        )


def count_partitions(instance: DagsterInstance, definition: str) -> int:
    """How many keys are registered; upstream would list them."""
    of_definition = DynamicPartitionsTable.c.partitions_def_name == definition
    query = db.select(db.func.count()).select_from(DynamicPartitionsTable).where(of_definition)
    with _events_of(instance).index_connection() as connection:
        return int(connection.execute(query).scalar_one())


def _events_of(instance: DagsterInstance) -> SqlEventLogStorage:
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    return storage


def prepare() -> None:
    """Creates the tables.

    Run it alone before the first start: two processes that create them at once leave them broken.
    """
    take_paths_literally()
    with DagsterInstance.get() as instance:
        instance.get_runs(limit=1)


if __name__ == "__main__":
    prepare()
