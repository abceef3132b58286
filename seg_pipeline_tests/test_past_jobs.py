"""The past that `history_servers` measures with must be one that Dagster could have written."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from benchmarks.past_jobs import ORIGINAL, age_runs, copy_run, keep_alive, prefix_of, register
from seg_pipeline.domain import JobStatus
from seg_pipeline.runtime.dagster_storage import postgres_engine, postgres_url
from seg_pipeline.store import keys
from seg_pipeline_tests.builders import accept_upload, make_context, make_result
from seg_pipeline_tests.dagster_instances import configured_instance, make_database

pytestmark = pytest.mark.process

COPIES = 3


@dg.op
def finish(context: dg.OpExecutionContext) -> None:
    """Materialises a job's asset."""
    context.log_event(dg.AssetMaterialization("result", partition=f"{ORIGINAL}0"))


@dg.job(tags={"first": f"{ORIGINAL}0"})
def segment() -> None:
    """A job of one op."""
    finish()


@pytest.fixture
def url(postgres_server_url: str) -> str:
    """The URL of an empty database."""
    return make_database(postgres_server_url)


@pytest.fixture
def instance(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance on that database."""
    with configured_instance(tmp_path, monkeypatch, url) as configured:
        yield configured


def test_a_copied_run_is_one_of_its_own_with_its_own_jobs(
    instance: dg.DagsterInstance, url: str
) -> None:
    original = segment.execute_in_process(instance=instance).run_id
    copy_run(postgres_engine(postgres_url(url)), original, COPIES)
    records = instance.get_run_records()
    assert len({record.dagster_run.run_id for record in records}) == COPIES + 1
    assert {record.dagster_run.tags["first"] for record in records} == {
        f"{prefix_of(number)}0" for number in range(COPIES + 1)
    }
    assert {record.dagster_run.status for record in records} == {dg.DagsterRunStatus.SUCCESS}
    wrote = {len(instance.all_logs(record.dagster_run.run_id)) for record in records}
    assert len(wrote) == 1
    assert instance.get_materialized_partitions(dg.AssetKey("result")) == {
        f"{prefix_of(number)}0" for number in range(COPIES + 1)
    }


def test_the_oldest_runs_can_be_made_due_for_the_prune(
    instance: dg.DagsterInstance, url: str
) -> None:
    engine = postgres_engine(postgres_url(url))
    copy_run(engine, segment.execute_in_process(instance=instance).run_id, COPIES)
    age_runs(engine, 2)
    long_ago = datetime.now(UTC) - timedelta(days=2)
    assert len(instance.get_run_ids(dg.RunsFilter(created_before=long_ago))) == 2


def test_partitions_are_registered_in_their_order(instance: dg.DagsterInstance, url: str) -> None:
    instance.get_dynamic_partitions("jobs")
    register(postgres_engine(postgres_url(url)), ["b", "a"])
    assert instance.get_dynamic_partitions("jobs") == ["b", "a"]


def test_jobs_that_still_live_are_in_the_store_as_finished_ones(tmp_path: Path) -> None:
    stage_context = make_context(tmp_path)
    accept_upload(stage_context, f"{ORIGINAL}0")
    ends = datetime.now(UTC) + timedelta(hours=1)
    stage_context.repository.results.finish(make_result(f"{ORIGINAL}0", expires_at=ends))
    keep_alive(stage_context.repository, f"{ORIGINAL}0", ["past-00000001-0"], ends)
    assert stage_context.repository.status("past-00000001-0") is JobStatus.COMPLETED
    assert stage_context.store.head(keys.done("completed", "past-00000001-0")) is not None
    expired = stage_context.repository.expiry.expired(ends + timedelta(minutes=1), 10)
    assert {job.uuid for job in expired} == {f"{ORIGINAL}0", "past-00000001-0"}
