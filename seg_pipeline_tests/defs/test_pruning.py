"""What goes when: expired jobs, their partitions, and Dagster's own old runs; never a job in
flight."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from seg_pipeline.defs.pruning import Pruned, prune, pruned
from seg_pipeline.errors import StoreUnavailable
from seg_pipeline.jobs.deliveries import Policy, Reply
from seg_pipeline.jobs.heartbeats import WorkerHeartbeat, all_workers, write_beat
from seg_pipeline.pipeline.stages import StageContext
from seg_pipeline.runtime.celery_app import broker_folder
from seg_pipeline_tests.builders import NOON, accept_upload, end_queue_job, make_context
from seg_pipeline_tests.pipeline.test_stages import run_stages


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def stage_context(tmp_path: Path) -> StageContext:
    """A stage_context with a job that is finished, one in flight and one in the inbox."""
    stage_context = make_context(tmp_path)
    for uuid in ("finished", "in-flight", "waiting"):
        accept_upload(stage_context, uuid, ttl_seconds=60)
    stage_context.inbox.claim(["finished", "in-flight"], "finished:1")
    run_stages(stage_context, "finished")
    return stage_context


def later(**ago: float) -> datetime:
    return datetime.now(UTC) + timedelta(**ago)


def folders(stage_context: StageContext) -> list[str]:
    return stage_context.store.list_folders("assets/")


def test_an_expired_job_goes_with_all_its_files_and_its_partition(
    stage_context: StageContext, instance: dg.DagsterInstance
) -> None:
    instance.add_dynamic_partitions("jobs", ["finished", "in-flight", "waiting"])
    counts = prune(stage_context, instance, later(seconds=120))
    assert (counts.jobs, counts.partitions) == (1, 1)
    assert folders(stage_context) == ["in-flight", "waiting"]
    assert set(instance.get_dynamic_partitions("jobs")) == {"in-flight", "waiting"}
    assert stage_context.store.list("expiry/") == []


def test_nothing_goes_before_its_time(
    stage_context: StageContext, instance: dg.DagsterInstance
) -> None:
    assert prune(stage_context, instance, later(seconds=30)) == Pruned()
    assert folders(stage_context) == ["finished", "in-flight", "waiting"]


def test_a_dry_run_counts_and_removes_nothing(
    stage_context: StageContext, instance: dg.DagsterInstance
) -> None:
    assert prune(stage_context, instance, later(seconds=120), dry_run=True).jobs == 1
    assert "finished" in folders(stage_context)


def test_an_expired_job_that_an_operator_runs_again_is_left(
    stage_context: StageContext, instance: dg.DagsterInstance
) -> None:
    now = later(seconds=120)
    write_beat(
        stage_context.store,
        WorkerHeartbeat("worker-1", 1, "here", now, now, run_id="r", uuids=("finished",)),
    )
    assert prune(stage_context, instance, now).jobs == 0


def test_what_the_app_server_does_not_know_yet_is_kept_with_its_files(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """A link in a PATCH that comes a day late must still lead to a mask."""
    stage_context = make_context(tmp_path, app_server_url="https://app.example")
    end_queue_job(stage_context.inbox, "told-late", ttl_seconds=60)
    assert prune(stage_context, instance, NOON + timedelta(days=1)).jobs == 0
    now = NOON + timedelta(days=1)
    deliver(stage_context, "told-late", Reply(0.1, 200), now)
    assert prune(stage_context, instance, now + timedelta(seconds=59)).jobs == 0
    look_into_outbox(stage_context, now + timedelta(seconds=60))
    assert prune(stage_context, instance, now + timedelta(seconds=60)).jobs == 1
    assert (stage_context.store.list("assets/"), stage_context.store.list("outbox/")) == ([], [])


def test_a_parked_delivery_is_kept_for_a_week_to_be_replayed(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    stage_context = make_context(tmp_path, app_server_url="https://app.example")
    now = datetime.now(UTC)
    end_queue_job(stage_context.inbox, "refused", ttl_seconds=60, ended_at=now)
    deliver(stage_context, "refused", Reply(0.1, 404, "no"), now)
    assert prune(stage_context, instance, now + timedelta(days=6)) == Pruned()
    later_still = now + timedelta(days=7, seconds=1)
    look_into_outbox(stage_context, later_still)
    counts = prune(stage_context, instance, later_still)
    assert counts.jobs == 1
    assert all(
        stage_context.store.list(prefix) == []
        for prefix in ("assets/", "outbox/", "parked/", "expiry/")
    )


def test_where_there_is_no_app_server_nothing_waits_for_it(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """It was taken out of the settings while deliveries were under way."""
    stage_context = make_context(tmp_path)
    end_queue_job(stage_context.inbox, "job-1", ttl_seconds=60)
    assert prune(stage_context, instance, NOON + timedelta(days=1)).jobs == 1
    assert (stage_context.store.list("assets/"), stage_context.store.list("outbox/")) == ([], [])


def deliver(stage_context: StageContext, uuid: str, reply: Reply, now: datetime) -> None:
    """One attempt, as the courier makes it."""
    (marker,) = stage_context.inbox.outbox.waiting(datetime.now(UTC) + timedelta(days=1), 10)
    due_delivery = stage_context.inbox.outbox.take(marker, now)
    assert due_delivery is not None
    policy = Policy(60, stage_context.settings.parked_ttl_seconds)
    stage_context.inbox.outbox.note(
        due_delivery.delivery.after(reply, now, policy, due_delivery.keep_until(now)),
        due_delivery.delivery,
    )


def look_into_outbox(stage_context: StageContext, now: datetime) -> None:
    """What the courier does with markers whose time has come."""
    for marker in stage_context.inbox.outbox.waiting(now, 10):
        assert stage_context.inbox.outbox.take(marker, now) is None


def test_notes_on_what_was_parked_go_after_a_week(
    stage_context: StageContext, instance: dg.DagsterInstance
) -> None:
    stage_context.store.put("parked/message-1", b"{}")
    assert prune(stage_context, instance, later(days=6)).parked == 0
    assert prune(stage_context, instance, later(days=8)).parked == 1
    assert stage_context.store.list("parked/") == []


def test_reports_that_belong_to_no_run_go_as_runs_do(
    stage_context: StageContext, instance: dg.DagsterInstance
) -> None:
    """Nothing else would ever remove them."""
    for uuid in ("a", "b"):
        instance.report_runless_asset_event(dg.AssetMaterialization("callback", partition=uuid))
    assert prune(stage_context, instance, later(seconds=30)).events == 0
    assert prune(stage_context, instance, later(days=2), dry_run=True).events == 2
    assert prune(stage_context, instance, later(days=2)).events == 2
    assert instance.get_materialized_partitions(dg.AssetKey("callback")) == set()


def test_a_second_prune_finishes_what_a_first_one_began(
    stage_context: StageContext, instance: dg.DagsterInstance
) -> None:
    """A prune that died after the documents were gone, with files and marker still there."""
    stage_context.store.delete("assets/finished/result.json")
    stage_context.store.delete("assets/finished/request.json")
    assert prune(stage_context, instance, later(seconds=120)).jobs == 1
    assert folders(stage_context) == ["in-flight", "waiting"]


def test_the_oldest_partitions_past_the_limit_go_except_those_under_way(
    stage_context: StageContext, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    instance.add_dynamic_partitions("jobs", ["in-flight", "finished", "waiting"])
    small = make_context(tmp_path, stage_context.store, live_partitions=1)
    assert prune(small, instance, later(seconds=0)).partitions == 1
    assert set(instance.get_dynamic_partitions("jobs")) == {"in-flight", "waiting"}


def test_old_finished_runs_go_with_what_they_wrote(
    stage_context: StageContext, instance: dg.DagsterInstance
) -> None:
    @dg.op
    def nothing() -> None:
        pass

    @dg.job
    def some_job() -> None:
        nothing()

    finished = some_job.execute_in_process(instance=instance).run_id
    running = instance.create_run_for_job(some_job, status=dg.DagsterRunStatus.STARTED).run_id
    assert prune(stage_context, instance, later(seconds=30)).runs == 0
    assert prune(stage_context, instance, later(days=2)).runs == 1
    assert not instance.has_run(finished)
    assert instance.has_run(running)


def test_leftovers_of_the_embedded_broker_go(
    stage_context: StageContext, instance: dg.DagsterInstance
) -> None:
    folder = broker_folder(stage_context.settings)
    (folder / "taken").mkdir(parents=True)
    (folder / "messages").mkdir()
    old, new, waiting = (
        folder / "taken/old.msg",
        folder / "taken/new.msg",
        folder / "messages/waiting.msg",
    )
    for path in (old, new, waiting):
        path.write_text("{}")
    for path in (old, waiting):
        os.utime(path, (0, 0))
    assert prune(stage_context, instance, later(seconds=0)).broker_messages == 1
    assert [path.exists() for path in (old, new, waiting)] == [False, True, True]


def test_beats_of_workers_that_are_long_gone_go(
    stage_context: StageContext, instance: dg.DagsterInstance
) -> None:
    now = datetime.now(UTC)
    for name, age in (("gone", timedelta(days=2)), ("here", timedelta(0))):
        write_beat(stage_context.store, WorkerHeartbeat(name, 1, "here", now - age, now - age))
    assert prune(stage_context, instance, now).heartbeats == 1
    assert [heartbeat.name for heartbeat in all_workers(stage_context.store)] == ["here"]


def test_what_cannot_be_removed_keeps_nothing_else_from_going(
    stage_context: StageContext, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that the operator protected must not fill the disk with everybody's."""
    run_stages(stage_context, "in-flight")
    delete = stage_context.inbox.delete

    def refuse_one(uuid: str) -> bool:
        if uuid == "in-flight":
            raise StoreUnavailable("the store cannot write assets/in-flight/: Permission denied.")
        return delete(uuid)

    monkeypatch.setattr(stage_context.inbox, "delete", refuse_one)
    instance.add_dynamic_partitions("jobs", ["finished"])
    counts = prune(stage_context, instance, later(seconds=120))
    assert (counts.jobs, counts.partitions, counts.failures) == (1, 1, 1)
    assert "Permission denied" in counts.first_failure


def test_a_prune_with_failures_is_a_failed_run_that_says_why(
    stage_context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(uuid: str) -> bool:
        raise StoreUnavailable("the store cannot write: Permission denied.")

    result = stage_context.inbox.result("finished") or {}
    stage_context.inbox.finish("finished", result, "completed", later(seconds=-1))
    monkeypatch.setattr(stage_context.inbox, "delete", refuse)
    with pytest.raises(dg.Failure, match=r"1 removals failed.*Permission denied"):
        dg.materialize([pruned], resources={"stage_context": stage_context})


def test_a_prune_ends_when_its_time_is_over_and_the_next_goes_on(
    stage_context: StageContext, instance: dg.DagsterInstance
) -> None:
    assert prune(stage_context, instance, later(seconds=120), longest_seconds=0) == Pruned()
    assert prune(stage_context, instance, later(seconds=120)).jobs == 1


def test_the_asset_reports_what_went(stage_context: StageContext) -> None:
    result = dg.materialize(
        [pruned],
        resources={"stage_context": stage_context},
        run_config={"ops": {"pruned": {"config": {"dry_run": True}}}},
    )
    (event,) = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert (metadata["dry_run"].value, metadata["jobs"].value) == (True, 0)
