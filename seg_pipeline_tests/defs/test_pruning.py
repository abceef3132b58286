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
from seg_pipeline.jobs.heartbeats import WorkerBeat, all_workers, write_beat
from seg_pipeline.pipeline.stages import Workbench
from seg_pipeline.runtime.celery_app import broker_folder
from seg_pipeline_tests.builders import NOON, accept_upload, end_queue_job, make_bench
from seg_pipeline_tests.pipeline.test_stages import run_stages


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    """A workbench with a job that is finished, one in flight and one in the inbox."""
    bench = make_bench(tmp_path)
    for uuid in ("finished", "in-flight", "waiting"):
        accept_upload(bench, uuid, ttl_seconds=60)
    bench.inbox.claim(["finished", "in-flight"], "finished:1")
    run_stages(bench, "finished")
    return bench


def later(**ago: float) -> datetime:
    return datetime.now(UTC) + timedelta(**ago)


def folders(bench: Workbench) -> list[str]:
    return bench.store.list_folders("assets/")


def test_an_expired_job_goes_with_all_its_files_and_its_partition(
    bench: Workbench, instance: dg.DagsterInstance
) -> None:
    instance.add_dynamic_partitions("jobs", ["finished", "in-flight", "waiting"])
    counts = prune(bench, instance, later(seconds=120))
    assert (counts.jobs, counts.partitions) == (1, 1)
    assert folders(bench) == ["in-flight", "waiting"]
    assert set(instance.get_dynamic_partitions("jobs")) == {"in-flight", "waiting"}
    assert bench.store.list("expiry/") == []


def test_nothing_goes_before_its_time(bench: Workbench, instance: dg.DagsterInstance) -> None:
    assert prune(bench, instance, later(seconds=30)) == Pruned()
    assert folders(bench) == ["finished", "in-flight", "waiting"]


def test_a_dry_run_counts_and_removes_nothing(
    bench: Workbench, instance: dg.DagsterInstance
) -> None:
    assert prune(bench, instance, later(seconds=120), dry_run=True).jobs == 1
    assert "finished" in folders(bench)


def test_an_expired_job_that_an_operator_runs_again_is_left(
    bench: Workbench, instance: dg.DagsterInstance
) -> None:
    now = later(seconds=120)
    write_beat(
        bench.store, WorkerBeat("worker-1", 1, "here", now, now, run_id="r", uuids=("finished",))
    )
    assert prune(bench, instance, now).jobs == 0


def test_what_the_app_server_does_not_know_yet_is_kept_with_its_files(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """A link in a PATCH that comes a day late must still lead to a mask."""
    bench = make_bench(tmp_path, app_server_url="https://app.example")
    end_queue_job(bench.inbox, "told-late", ttl_seconds=60)
    assert prune(bench, instance, NOON + timedelta(days=1)).jobs == 0
    now = NOON + timedelta(days=1)
    deliver(bench, "told-late", Reply(0.1, 200), now)
    assert prune(bench, instance, now + timedelta(seconds=59)).jobs == 0
    look_into_outbox(bench, now + timedelta(seconds=60))
    assert prune(bench, instance, now + timedelta(seconds=60)).jobs == 1
    assert (bench.store.list("assets/"), bench.store.list("outbox/")) == ([], [])


def test_a_parked_delivery_is_kept_for_a_week_to_be_replayed(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    bench = make_bench(tmp_path, app_server_url="https://app.example")
    now = datetime.now(UTC)
    end_queue_job(bench.inbox, "refused", ttl_seconds=60, ended_at=now)
    deliver(bench, "refused", Reply(0.1, 404, "no"), now)
    assert prune(bench, instance, now + timedelta(days=6)) == Pruned()
    later_still = now + timedelta(days=7, seconds=1)
    look_into_outbox(bench, later_still)
    counts = prune(bench, instance, later_still)
    assert counts.jobs == 1
    assert all(
        bench.store.list(prefix) == [] for prefix in ("assets/", "outbox/", "parked/", "expiry/")
    )


def test_where_there_is_no_app_server_nothing_waits_for_it(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """It was taken out of the settings while deliveries were under way."""
    bench = make_bench(tmp_path)
    end_queue_job(bench.inbox, "job-1", ttl_seconds=60)
    assert prune(bench, instance, NOON + timedelta(days=1)).jobs == 1
    assert (bench.store.list("assets/"), bench.store.list("outbox/")) == ([], [])


def deliver(bench: Workbench, uuid: str, reply: Reply, now: datetime) -> None:
    """One attempt, as the courier makes it."""
    (marker,) = bench.inbox.outbox.waiting(datetime.now(UTC) + timedelta(days=1), 10)
    parcel = bench.inbox.outbox.take(marker, now)
    assert parcel is not None
    policy = Policy(60, bench.settings.parked_ttl_seconds)
    bench.inbox.outbox.note(
        parcel.delivery.after(reply, now, policy, parcel.keep_until(now)), parcel.delivery
    )


def look_into_outbox(bench: Workbench, now: datetime) -> None:
    """What the courier does with markers whose time has come."""
    for marker in bench.inbox.outbox.waiting(now, 10):
        assert bench.inbox.outbox.take(marker, now) is None


def test_notes_on_what_was_parked_go_after_a_week(
    bench: Workbench, instance: dg.DagsterInstance
) -> None:
    bench.store.put("parked/message-1", b"{}")
    assert prune(bench, instance, later(days=6)).parked == 0
    assert prune(bench, instance, later(days=8)).parked == 1
    assert bench.store.list("parked/") == []


def test_reports_that_belong_to_no_run_go_as_runs_do(
    bench: Workbench, instance: dg.DagsterInstance
) -> None:
    """Nothing else would ever remove them."""
    for uuid in ("a", "b"):
        instance.report_runless_asset_event(dg.AssetMaterialization("callback", partition=uuid))
    assert prune(bench, instance, later(seconds=30)).events == 0
    assert prune(bench, instance, later(days=2), dry_run=True).events == 2
    assert prune(bench, instance, later(days=2)).events == 2
    assert instance.get_materialized_partitions(dg.AssetKey("callback")) == set()


def test_a_second_prune_finishes_what_a_first_one_began(
    bench: Workbench, instance: dg.DagsterInstance
) -> None:
    """A prune that died after the documents were gone, with files and marker still there."""
    bench.store.delete("assets/finished/result.json")
    bench.store.delete("assets/finished/request.json")
    assert prune(bench, instance, later(seconds=120)).jobs == 1
    assert folders(bench) == ["in-flight", "waiting"]


def test_the_oldest_partitions_past_the_limit_go_except_those_under_way(
    bench: Workbench, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    instance.add_dynamic_partitions("jobs", ["in-flight", "finished", "waiting"])
    small = make_bench(tmp_path, bench.store, live_partitions=1)
    assert prune(small, instance, later(seconds=0)).partitions == 1
    assert set(instance.get_dynamic_partitions("jobs")) == {"in-flight", "waiting"}


def test_old_finished_runs_go_with_what_they_wrote(
    bench: Workbench, instance: dg.DagsterInstance
) -> None:
    @dg.op
    def nothing() -> None:
        pass

    @dg.job
    def some_job() -> None:
        nothing()

    finished = some_job.execute_in_process(instance=instance).run_id
    running = instance.create_run_for_job(some_job, status=dg.DagsterRunStatus.STARTED).run_id
    assert prune(bench, instance, later(seconds=30)).runs == 0
    assert prune(bench, instance, later(days=2)).runs == 1
    assert not instance.has_run(finished)
    assert instance.has_run(running)


def test_leftovers_of_the_embedded_broker_go(
    bench: Workbench, instance: dg.DagsterInstance
) -> None:
    folder = broker_folder(bench.settings)
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
    assert prune(bench, instance, later(seconds=0)).broker_messages == 1
    assert [path.exists() for path in (old, new, waiting)] == [False, True, True]


def test_beats_of_workers_that_are_long_gone_go(
    bench: Workbench, instance: dg.DagsterInstance
) -> None:
    now = datetime.now(UTC)
    for name, age in (("gone", timedelta(days=2)), ("here", timedelta(0))):
        write_beat(bench.store, WorkerBeat(name, 1, "here", now - age, now - age))
    assert prune(bench, instance, now).heartbeats == 1
    assert [beat.name for beat in all_workers(bench.store)] == ["here"]


def test_what_cannot_be_removed_keeps_nothing_else_from_going(
    bench: Workbench, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that the operator protected must not fill the disk with everybody's."""
    run_stages(bench, "in-flight")
    delete = bench.inbox.delete

    def refuse_one(uuid: str) -> bool:
        if uuid == "in-flight":
            raise StoreUnavailable("the store cannot write assets/in-flight/: Permission denied.")
        return delete(uuid)

    monkeypatch.setattr(bench.inbox, "delete", refuse_one)
    instance.add_dynamic_partitions("jobs", ["finished"])
    counts = prune(bench, instance, later(seconds=120))
    assert (counts.jobs, counts.partitions, counts.failures) == (1, 1, 1)
    assert "Permission denied" in counts.first_failure


def test_a_prune_with_failures_is_a_failed_run_that_says_why(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(uuid: str) -> bool:
        raise StoreUnavailable("the store cannot write: Permission denied.")

    result = bench.inbox.result("finished") or {}
    bench.inbox.finish("finished", result, "completed", later(seconds=-1))
    monkeypatch.setattr(bench.inbox, "delete", refuse)
    with pytest.raises(dg.Failure, match=r"1 removals failed.*Permission denied"):
        dg.materialize([pruned], resources={"workbench": bench})


def test_a_prune_ends_when_its_time_is_over_and_the_next_goes_on(
    bench: Workbench, instance: dg.DagsterInstance
) -> None:
    assert prune(bench, instance, later(seconds=120), longest_seconds=0) == Pruned()
    assert prune(bench, instance, later(seconds=120)).jobs == 1


def test_the_asset_reports_what_went(bench: Workbench) -> None:
    result = dg.materialize(
        [pruned],
        resources={"workbench": bench},
        run_config={"ops": {"pruned": {"config": {"dry_run": True}}}},
    )
    (event,) = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert (metadata["dry_run"].value, metadata["jobs"].value) == (True, 0)
