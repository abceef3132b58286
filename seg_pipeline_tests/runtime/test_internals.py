"""The insides of Dagster, dagster-celery, Celery, kombu and billiard that we lean on, which no
version promises.

`pyproject.toml` pins these libraries. Before a pin is moved this must hold: what is imported is
listed here, and each thing is still what our code takes it for.
"""

import ast
import inspect
import logging
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from billiard import SimpleQueue
from billiard.pool import Worker
from billiard.queues import _SimpleQueue
from celery.concurrency.prefork import process_destructor
from celery.signals import Signal, worker_process_init, worker_process_shutdown
from dagster import DagsterInstance
from dagster._cli.api import _execute_run_command_body
from dagster._core.execution import context_creation_job, host_mode
from dagster._core.instance import config as instance_config
from dagster._core.launcher import RunLauncher
from dagster._core.log_manager import LOG_RECORD_METADATA_ATTR, DagsterLogRecordMetadata
from dagster._core.storage.event_log import ConsolidatedSqliteEventLogStorage
from dagster._core.storage.event_log.sqlite import consolidated_sqlite_event_log
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules import SqliteScheduleStorage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
from dagster._daemon import controller, sensor
from dagster._daemon.cli import run_command
from dagster._serdes import ConfigurableClass, ConfigurableClassData
from dagster._utils import log
from dagster_postgres import PostgresEventLogStorage, PostgresRunStorage, PostgresScheduleStorage
from dagster_webserver import cli as webserver_cli
from kombu.transport import filesystem, virtual

from seg_pipeline.runtime.launcher import WarmRunLauncher
from seg_pipeline.runtime.webserver import serve

PRODUCT = Path(__file__).parents[2] / "seg_pipeline"
FOREIGN = (
    "dagster._",
    "dagster_aws",
    "dagster_celery",
    "dagster_postgres",
    "dagster_webserver",
    "celery",
    "kombu",
    "billiard",
)

IMPORTED = {
    "billiard.util: set_pdeathsig",
    "billiard: current_process",
    "celery.exceptions: CPendingDeprecationWarning",
    "celery.exceptions: SecurityWarning",
    "celery.signals: setup_logging",
    "celery.signals: worker_process_init",
    "celery.signals: worker_process_shutdown",
    "celery.worker: state",
    "celery: Celery",
    "celery: bootsteps",
    "dagster._cli.api: _execute_run_command_body",
    "dagster._cli.api: grpc_command",
    "dagster._core.definitions.assets.graph.asset_graph: AssetGraph",
    "dagster._core.definitions.assets.graph.asset_graph_subset: AssetGraphSubset",
    "dagster._core.definitions.events: AssetKeyPartitionKey",
    "dagster._core.execution.backfill: BulkActionStatus",
    "dagster._core.execution.backfill: PartitionBackfill",
    "dagster._core.execution: context_creation_job",
    "dagster._core.execution: host_mode",
    "dagster._core.instance: RUNLESS_RUN_ID",
    "dagster._core.instance: config",
    "dagster._core.launcher: LaunchRunContext",
    "dagster._core.launcher: RunLauncher",
    "dagster._core.log_manager: LOG_RECORD_EVENT_ATTR",
    "dagster._core.remote_representation.external: RemoteSensor",
    "dagster._core.scheduler.instigation: InstigatorState",
    "dagster._core.storage.base_storage: DagsterStorage",
    "dagster._core.storage.cloud_storage_compute_log_manager: PollingComputeLogSubscriptionManager",
    "dagster._core.storage.compute_log_manager: CapturedLogContext",
    "dagster._core.storage.compute_log_manager: ComputeIOType",
    "dagster._core.storage.compute_log_manager: ComputeLogManager",
    "dagster._core.storage.event_log.base: EventLogStorage",
    "dagster._core.storage.event_log.schema: DynamicPartitionsTable",
    "dagster._core.storage.event_log.schema: SqlEventLogStorageTable",
    "dagster._core.storage.event_log.sqlite: consolidated_sqlite_event_log",
    "dagster._core.storage.event_log: ConsolidatedSqliteEventLogStorage",
    "dagster._core.storage.event_log: SqlEventLogStorage",
    "dagster._core.storage.local_compute_log_manager: IO_TYPE_EXTENSION",
    "dagster._core.storage.local_compute_log_manager: LocalComputeLogManager",
    "dagster._core.storage.runs.base: RunStorage",
    "dagster._core.storage.runs.sqlite: sqlite_run_storage",
    "dagster._core.storage.runs: SqliteRunStorage",
    "dagster._core.storage.schedules.base: ScheduleStorage",
    "dagster._core.storage.schedules.sqlite: sqlite_schedule_storage",
    "dagster._core.storage.schedules: SqliteScheduleStorage",
    "dagster._core.utils: make_new_backfill_id",
    "dagster._core.workspace.context: IWorkspaceProcessContext",
    "dagster._daemon.cli: run_command",
    "dagster._daemon: controller",
    "dagster._daemon: sensor",
    "dagster._serdes: ConfigurableClass",
    "dagster._serdes: ConfigurableClassData",
    "dagster._utils: log",
    "dagster_aws.s3: S3ComputeLogManager",
    "dagster_celery.tags: DAGSTER_CELERY_QUEUE_TAG",
    "dagster_postgres: PostgresEventLogStorage",
    "dagster_postgres: PostgresRunStorage",
    "dagster_postgres: PostgresScheduleStorage",
    "dagster_webserver.app: create_app_from_workspace_process_context",
    "dagster_webserver: cli",
    "kombu.exceptions: OperationalError",
    "kombu.transport: TRANSPORT_ALIASES",
    "kombu.transport: filesystem",
    "kombu.transport: virtual",
    "kombu.utils.encoding: str_to_bytes",
    "kombu.utils.json: dumps",
    "kombu: Connection",
    "kombu: Queue",
}

REACHED_INTO = {
    "_conn_string",
    "_engine",
    "_has_asset_key_col_on_connection",
    "_has_instigators_table",
    "_instance",
    "_lifespan",
    "_rlock",
    "_s3_key",
    "_store_asset_event",
    "_store_asset_event_tags",
    "_wlock",
}
"""Private attributes of theirs that `runtime/` uses."""


@pytest.mark.process
def test_what_is_imported_is_listed_here() -> None:
    imported = {name for path in PRODUCT.rglob("*.py") for name in _foreign_imports(path)}
    assert imported == IMPORTED


def test_what_is_private_to_them_and_used_is_listed_here() -> None:
    used = {
        name for path in (PRODUCT / "runtime").glob("*.py") for name in _foreign_attributes(path)
    }
    assert used == REACHED_INTO


@pytest.mark.parametrize("name", sorted(IMPORTED))
def test_what_is_imported_is_there(name: str) -> None:
    module, _, attribute = name.partition(": ")
    assert hasattr(import_module(module), attribute)


def test_a_run_is_executed_by_a_function_of_four() -> None:
    parameters = [*inspect.signature(_execute_run_command_body).parameters]
    assert parameters == ["run_id", "instance", "write_stream_fn", "set_exit_code_on_failure"]


def test_a_launcher_must_launch_and_terminate_and_need_not_more() -> None:
    assert RunLauncher.__abstractmethods__ == {"launch_run", "terminate"}
    assert ConfigurableClass.__abstractmethods__ == {
        "inst_data",
        "config_type",
        "from_config_value",
    }


def test_a_launcher_promises_neither_to_resume_a_run_nor_to_check_on_it() -> None:
    """Upstream's does both by a tag that only its own tasks set."""
    launcher = WarmRunLauncher(ConfigurableClassData("module", "Class", "{}\n"))
    assert not launcher.supports_resume_run
    assert not launcher.supports_check_run_worker_health
    assert type(launcher).resume_run is RunLauncher.resume_run
    assert type(launcher).check_run_worker_health is RunLauncher.check_run_worker_health


def test_a_launcher_knows_its_instance() -> None:
    with DagsterInstance.ephemeral() as instance:
        launcher = WarmRunLauncher()
        launcher.register_instance(instance)
        assert launcher._instance is instance


def test_paths_are_read_by_functions_that_are_bound_in_their_modules() -> None:
    """`literal_paths` puts its own there, so each must still be looked up there when it is
    called."""
    assert "load_yaml_from_globs" in instance_config.dagster_instance_config.__code__.co_names
    for module in (consolidated_sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
        assert "create_db_conn_string(" in inspect.getsource(module)
        assert callable(vars(module)["create_db_conn_string"])


def test_the_daemon_reads_its_pause_and_its_rule_from_its_module() -> None:
    """Both are replaced there, so a copy that is bound elsewhere would go on with upstream's."""
    assert isinstance(sensor.MIN_INTERVAL_LOOP_TIME, int | float)
    rule = [*inspect.signature(sensor.is_under_min_interval).parameters]
    assert rule == ["state", "remote_sensor", "minimum_allowed_min_interval"]
    assert "MIN_INTERVAL_LOOP_TIME" in sensor.execute_sensor_iteration_loop.__code__.co_names
    names = {
        name
        for _, each in inspect.getmembers(sensor, inspect.isfunction)
        for name in each.__code__.co_names
    }
    assert "is_under_min_interval" in names
    assert callable(run_command)


def test_the_webserver_serves_its_application_through_its_module() -> None:
    """Which is where ours takes its place, behind a guard."""
    theirs = webserver_cli.host_dagster_ui_with_workspace_process_context
    assert [*inspect.signature(serve).parameters] == [*inspect.signature(theirs).parameters]
    command = webserver_cli.dagster_webserver.callback
    assert command is not None
    assert theirs.__name__ in inspect.unwrap(command).__code__.co_names
    assert callable(webserver_cli._lifespan)


@pytest.mark.parametrize(
    ("storage", "methods"),
    [
        (SqliteRunStorage, ["connect", "has_run_stats_index_cols", "from_local"]),
        (
            SqliteScheduleStorage,
            ["connect", "has_built_index", "_has_instigators_table", "from_local"],
        ),
        (
            ConsolidatedSqliteEventLogStorage,
            ["_connect", "has_table", "_has_asset_key_col_on_connection"],
        ),
        (PostgresRunStorage, ["has_run_stats_index_cols", "optimize_for_webserver"]),
        (
            PostgresScheduleStorage,
            ["has_built_index", "_has_instigators_table", "optimize_for_webserver"],
        ),
        (
            PostgresEventLogStorage,
            ["has_table", "_has_asset_key_col_on_connection", "optimize_for_webserver"],
        ),
    ],
)
def test_a_storage_asks_where_we_answer(storage: type, methods: list[str]) -> None:
    """Ours overrides these: each must still be asked, or pooled connections and answers that are
    kept are lost."""
    assert [name for name in methods if not callable(getattr(storage, name, None))] == []


@pytest.mark.parametrize(
    "storage", [PostgresRunStorage, PostgresScheduleStorage, PostgresEventLogStorage]
)
def test_a_postgres_storage_keeps_its_engine_where_we_put_ours(storage: type) -> None:
    assert "self._engine = " in inspect.getsource(storage.__init__)  # type: ignore[misc]


def test_a_child_of_the_pool_has_its_pipes_and_their_locks() -> None:
    """Whether they are held by a dead child is looked at by name; a pool on an event loop has none
    to hold."""
    assert {"inq", "outq"} <= {*inspect.signature(Worker.__init__).parameters}
    queue = SimpleQueue()
    for lock in (queue._rlock, queue._wlock):
        assert lock.acquire(False)
        lock.release()
    on_an_event_loop = _SimpleQueue()
    assert (on_an_event_loop._rlock, on_an_event_loop._wlock) == (None, None)


def test_a_child_that_goes_is_told_of_with_its_exit_code() -> None:
    told: list[dict[str, Any]] = []

    def listen(**values: Any) -> None:
        told.append(values)

    worker_process_shutdown.connect(listen, weak=False)
    try:
        process_destructor(12, 0)
    finally:
        worker_process_shutdown.disconnect(listen)
    assert [(each["pid"], each["exitcode"]) for each in told] == [(12, 0)]


def test_what_a_start_hook_raises_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    """That is why ours ends the worker itself."""

    def fail(**_: Any) -> None:
        raise ValueError("no")

    signal = Signal(name="probe")
    signal.connect(fail, weak=False)
    with caplog.at_level(logging.CRITICAL, logger="celery.utils.dispatch.signal"):
        signal.send(sender=None)
    assert isinstance(worker_process_init, Signal)


def test_the_folder_broker_hands_messages_over_where_we_take_them() -> None:
    assert [*inspect.signature(filesystem.Channel._put).parameters] == [
        "self",
        "queue",
        "payload",
        "kwargs",
    ]
    assert "sorted(" in inspect.getsource(filesystem.Channel._get)
    for name in (
        "data_folder_in",
        "data_folder_out",
        "store_processed",
        "processed_folder",
        "control_folder",
    ):
        assert hasattr(filesystem.Channel, name)
    assert [*inspect.signature(virtual.Transport.drain_events).parameters] == [
        "self",
        "connection",
        "timeout",
    ]
    assert isinstance(filesystem.Transport.global_state, virtual.BrokerState)


def _foreign_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and _is_foreign(node.module):
            yield from (f"{node.module}: {alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _is_foreign(alias.name))


def _is_foreign(module: str) -> bool:
    return any(
        module == name or module.startswith(name if name.endswith("_") else f"{name}.")
        for name in FOREIGN
    )


def _foreign_attributes(path: Path) -> Iterator[str]:
    """Private attributes that are used in the module and neither set nor defined there."""
    tree = ast.parse(path.read_text())
    known = {
        "_exit",
        *_defined(tree),
        *_assigned(tree),
    }  # os._exit is public, whatever its name says
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    yield from (name for name in attributes - known if _is_private(name))


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _defined(tree: ast.AST) -> Iterator[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    yield from (node.name for node in ast.walk(tree) if isinstance(node, kinds))


def _assigned(tree: ast.AST) -> Iterator[str]:
    """What is set on `self`; on anything else it is theirs, such as a storage's engine."""
    stores = (
        each
        for each in ast.walk(tree)
        if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store)
    )
    yield from (each.attr for each in stores if ast.unparse(each.value) == "self")


def test_the_log_is_configured_by_one_function_that_we_can_replace() -> None:
    """`process_logs` puts its own in the place of each name that refers to it."""
    assert [*inspect.signature(log.configure_loggers).parameters] == [
        "handler",
        "formatter",
        "log_level",
    ]
    assert vars(controller)["configure_loggers"] is log.configure_loggers
    for module in (context_creation_job, host_mode):
        assert [*inspect.signature(module.default_system_loggers).parameters] == ["instance"]


def test_a_line_of_a_run_says_which_run_it_is_of() -> None:
    """`telemetry.logs` makes fields of what Dagster writes in front of its text."""
    keys = DagsterLogRecordMetadata.__annotations__.keys()
    assert {"run_id", "job_name", "step_key", "orig_message", "dagster_event"} <= keys
    assert LOG_RECORD_METADATA_ATTR == "dagster_meta"
