"""Dagster's storage on pooled connections, SQLite here and Postgres where a server can be
started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as db

from seg_pipeline.runtime import dagster_storage
from seg_pipeline.runtime.dagster_storage import (
    PLANNED_AT_ONCE,
    SegPipelineStorage,
    delete_event,
    plan_together,
    postgres_url,
    runless_events,
)
from seg_pipeline_tests.dagster_instances import configured_instance, make_database

pytestmark = pytest.mark.process


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
    return make_database(postgres_server_url)


@pytest.fixture(params=["sqlite", "postgres"])
def instance(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance on each database."""
    url = request.getfixturevalue("postgres") if request.param == "postgres" else None
    with configured_instance(tmp_path, monkeypatch, url) as configured:
        yield configured


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


IMAGES = [f"image-{number:02d}" for number in range(32)]
STAGES = ("source_image", "segments", "cutouts", "result", "callback")


@pytest.fixture
def stages(instance: dg.DagsterInstance) -> dg.RepositoryDefinition:
    """A job of five assets, partitioned as ours are, and 32 partitions."""
    partitions = dg.DynamicPartitionsDefinition(name="jobs")
    instance.add_dynamic_partitions("jobs", IMAGES)

    def stage(name: str) -> dg.AssetsDefinition:
        @dg.asset(name=name, partitions_def=partitions)
        def nothing() -> None:
            pass

        return nothing

    job = dg.define_asset_job("segment_images")
    repository = dg.Definitions([stage(name) for name in STAGES], jobs=[job]).get_repository_def()
    assert isinstance(repository, dg.RepositoryDefinition)
    return repository


def plan(instance: dg.DagsterInstance, stages: dg.RepositoryDefinition) -> str:
    """A run over all the partitions, as the daemon makes it; its id."""
    first_and_last = {
        "dagster/asset_partition_range_start": IMAGES[0],
        "dagster/asset_partition_range_end": IMAGES[-1],
    }
    job = stages.get_job("segment_images")
    return instance.create_run_for_job(job, tags=first_and_last).run_id


@contextmanager
def counted_statements() -> Iterator[list[str]]:
    """What is asked of databases inside."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, text: str, *_: Any) -> None:
        statements.append(text)

    db.event.listen(db.Engine, "before_cursor_execute", note)
    yield statements
    db.event.remove(db.Engine, "before_cursor_execute", note)


def planned_events(instance: dg.DagsterInstance, run_id: str) -> list[tuple[str, str, str | None]]:
    entries = [entry.get_dagster_event() for entry in instance.all_logs(run_id)]
    return [
        (entry.event_type_value, str(entry.asset_key), entry.partition)
        for entry in entries
        if entry.asset_key
    ]


def test_what_a_run_of_32_plans_is_stored_together(
    instance: dg.DagsterInstance,
    stages: dg.RepositoryDefinition,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One by one it is 480 statements; what is stored, and what is known of the assets afterwards,
    must be the same."""
    monkeypatch.delenv("DAGSTER_EVENT_BATCH_SIZE", raising=False)
    with counted_statements() as one_by_one:
        first = plan(instance, stages)
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", str(PLANNED_AT_ONCE))
    with counted_statements() as together:
        second = plan(instance, stages)
    assert len(one_by_one) > 2 * len(IMAGES) * len(STAGES)
    assert len(together) < 40
    assert planned_events(instance, second) == planned_events(instance, first)
    assert len(planned_events(instance, second)) == len(IMAGES) * len(STAGES)
    records = instance.get_asset_records([dg.AssetKey(name) for name in STAGES])
    assert {record.asset_entry.last_run_id for record in records} == {second}


def test_materialisations_that_come_in_a_batch_are_found(instance: dg.DagsterInstance) -> None:
    """Upstream's own way of storing them is kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_EVENT_BATCH_SIZE", "10")

        @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["a", "b"]))
        def result() -> None:
            pass

        @dg.asset_check(asset=result)
        def is_there() -> dg.AssetCheckResult:
            return dg.AssetCheckResult(passed=True)

        dg.materialize([result, is_there], instance=instance, partition_key="a")
    assert instance.get_materialized_partitions(dg.AssetKey("result")) == {"a"}


@dg.op(config_schema={"done": [str]})
def finish(context: dg.OpExecutionContext) -> None:
    """Materialises these partitions of an asset."""
    for uuid in context.op_config["done"]:
        context.log_event(dg.AssetMaterialization("result", partition=uuid))


@dg.job
def finishing() -> None:
    """A job of one op."""
    finish()


def materializations(instance: dg.DagsterInstance, name: str) -> list[tuple[int, str | None, Any]]:
    """By their numbers: the partition and what is shown of it."""
    key = dg.AssetKey(name)
    records = instance.fetch_materializations(key, limit=100, ascending=True).records
    return [
        (record.storage_id, made.partition, made.metadata["bytes"].value)
        for record in records
        if (made := record.asset_materialization) is not None
    ]


def log_all(instance: dg.DagsterInstance, name: str, apart: bool) -> list[str]:
    """Materialises 32 partitions of an asset in one op; the statements that it took."""

    @dg.op
    def make(context: dg.OpExecutionContext) -> None:
        storage = instance.event_log_storage
        assert isinstance(storage, dagster_storage._MaterializedTogether)
        with nullcontext() if apart else storage.together():
            for number, uuid in enumerate(IMAGES):
                shown = {"bytes": number}
                made = dg.AssetMaterialization(name, partition=uuid, metadata=shown)
                context.log_event(made)

    @dg.job
    def making() -> None:
        make()

    with counted_statements() as statements:
        assert making.execute_in_process(instance=instance).success
    return statements


def test_what_a_stage_materialises_is_stored_together_and_the_same(
    instance: dg.DagsterInstance,
) -> None:
    """One by one it is three statements a job and stage, the largest part of what a run asks."""
    log_all(instance, "warm-up", apart=True)
    apart, together = log_all(instance, "apart", True), log_all(instance, "together", False)
    assert len(apart) - len(together) > 2 * len(IMAGES)
    one, other = materializations(instance, "apart"), materializations(instance, "together")
    assert [made[1:] for made in one] == [made[1:] for made in other]
    assert [made[1] for made in other] == list(IMAGES)
    assert instance.get_materialized_partitions(dg.AssetKey("together")) == set(IMAGES)
    (record,) = instance.get_asset_records([dg.AssetKey("together")])
    last = record.asset_entry.last_materialization_record
    assert last is not None
    assert (last.storage_id, last.partition_key) == (other[-1][0], IMAGES[-1])


def test_what_was_logged_before_a_stage_failed_is_stored(instance: dg.DagsterInstance) -> None:
    @dg.op
    def make(context: dg.OpExecutionContext) -> None:
        storage = instance.event_log_storage
        assert isinstance(storage, dagster_storage._MaterializedTogether)
        with storage.together():
            for name, uuid in (("one", "a"), ("other", "b"), ("one", "c")):
                context.log_event(dg.AssetMaterialization(name, partition=uuid))
            raise ZeroDivisionError

    @dg.job
    def making() -> None:
        make()

    assert not making.execute_in_process(instance=instance, raise_on_error=False).success
    for name, partitions in (("one", {"a", "c"}), ("other", {"b"})):
        assert instance.get_materialized_partitions(dg.AssetKey(name)) == partitions


def test_which_partitions_a_run_still_owes_is_told_as_upstream_tells_it(
    instance: dg.DagsterInstance, stages: dg.RepositoryDefinition
) -> None:
    """Planned and never made; made; made and planned again; and all that after an event."""
    config = {"ops": {"finish": {"config": {"done": IMAGES[:20]}}}}
    first = plan(instance, stages)
    finishing.execute_in_process(instance=instance, run_config=config)
    ours, asset_key = instance.event_log_storage, dg.AssetKey("result")
    assert isinstance(ours, dagster_storage._QuickStatus)
    upstream = super(
        dagster_storage._QuickStatus, ours
    ).get_latest_asset_partition_materialization_attempts_without_materializations

    def owed(after: int | None = None) -> dict[str, str]:
        found = ours.get_latest_asset_partition_materialization_attempts_without_materializations(
            asset_key, after
        )
        assert found == upstream(asset_key, after)
        return {uuid: run_id for uuid, (run_id, _) in found.items()}

    assert owed() == dict.fromkeys(IMAGES[20:], first)
    second = plan(instance, stages)
    assert owed() == dict.fromkeys(IMAGES, second)
    planned = ours.get_latest_storage_id_by_partition(
        asset_key, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
    )
    *_, middle = sorted(planned.values())[:10]
    assert owed(middle) == {uuid: second for uuid in IMAGES if planned[uuid] > middle}
    assert len(owed(middle)) == len(IMAGES) - 10
    instance.wipe_assets([asset_key])
    assert owed() == {}


@pytest.mark.parametrize("asked", [3, 2500])
def test_of_few_and_of_many_keys_those_that_are_registered_are_found(
    instance: dg.DagsterInstance, asked: int
) -> None:
    instance.add_dynamic_partitions("jobs", ["a", "key-1", "key-2400"])
    instance.add_dynamic_partitions("others", ["key-0"])
    with counted_statements() as statements:
        found = instance.get_existing_dynamic_partitions(
            "jobs", [f"key-{number}" for number in range(asked)]
        )
    assert found == {f"key-{number}" for number in (1, 2400) if number < asked}
    assert len([text for text in statements if "dynamic_partitions." in text]) == 1


def test_planning_together_is_asked_for_in_the_environment_where_upstream_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DAGSTER_EVENT_BATCH_SIZE", raising=False)
    plan_together()
    assert os.environ["DAGSTER_EVENT_BATCH_SIZE"] == str(PLANNED_AT_ONCE)
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "0")
    plan_together()
    assert os.environ["DAGSTER_EVENT_BATCH_SIZE"] == "0"


def test_the_storage_has_nothing_to_configure() -> None:
    assert SegPipelineStorage.config_type() == {}


def test_a_postgres_url_names_the_driver_that_is_installed() -> None:
    assert (
        postgres_url("postgresql://me:secret@db/name") == "postgresql+psycopg2://me:secret@db/name"
    )
