"""What goes when: expired jobs, their partitions, and Dagster's own old runs; never a job in
flight."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from seg_pipeline.defs.pruning import (
    Limits,
    PruneConfig,
    Pruned,
    prune,
    prune_schedule,
    pruned,
)
from seg_pipeline.errors import StoreUnavailable
from seg_pipeline.jobs.deliveries import Policy, Reply
from seg_pipeline.jobs.heartbeats import WorkerHeartbeat, all_workers, write_heartbeat
from seg_pipeline.pipeline.stages import StageContext
from seg_pipeline.runtime.celery_app import broker_folder
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import write
from seg_pipeline_tests.builders import (
    NOON,
    accept_upload,
    end_queue_job,
    make_context,
    make_job,
    make_result,
)
from seg_pipeline_tests.jobs.batches_in_store import accept_batch, advance, finish_waiting
from seg_pipeline_tests.stage_runs import run_stages
from seg_pipeline_tests.unreliable import Killed, UnreliableStore


@pytest.fixture
def stage_context(tmp_path: Path) -> StageContext:
    """A stage_context with a job that is finished, one in flight and one in the inbox."""
    stage_context = make_context(tmp_path)
    for uuid in ("finished", "in-flight", "waiting"):
        accept_upload(stage_context, uuid, ttl_seconds=60)
    stage_context.repository.claims.claim(["finished", "in-flight"], "finished:1")
    run_stages(stage_context, "finished")
    return stage_context


def later(**ago: float) -> datetime:
    return datetime.now(UTC) + timedelta(**ago)


def folders(stage_context: StageContext) -> list[str]:
    return list(stage_context.store.list_folders("assets/"))


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
    write_heartbeat(
        stage_context.store,
        WorkerHeartbeat("worker-1", 1, "here", now, now, run_id="r", uuids=("finished",)),
    )
    assert prune(stage_context, instance, now).jobs == 0


def test_what_the_app_server_does_not_know_yet_is_kept_with_its_files(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """A link in a PATCH that comes a day late must still lead to a mask."""
    stage_context = make_context(tmp_path, app_server_url="https://app.example")
    end_queue_job(stage_context.repository, "told-late", ttl_seconds=60)
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
    end_queue_job(stage_context.repository, "refused", ttl_seconds=60, ended_at=now)
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
    end_queue_job(stage_context.repository, "job-1", ttl_seconds=60)
    assert prune(stage_context, instance, NOON + timedelta(days=1)).jobs == 1
    assert (stage_context.store.list("assets/"), stage_context.store.list("outbox/")) == ([], [])


def deliver(stage_context: StageContext, uuid: str, reply: Reply, now: datetime) -> None:
    """One attempt, as the courier makes it."""
    (marker,) = stage_context.repository.outbox.waiting(datetime.now(UTC) + timedelta(days=1), 10)
    due_delivery = stage_context.repository.outbox.take(marker, now)
    assert due_delivery is not None
    policy = Policy(60, stage_context.settings.parked_ttl_seconds)
    stage_context.repository.outbox.note(
        due_delivery.delivery.after(reply, now, policy, due_delivery.keep_until(now)),
        due_delivery.delivery,
    )


def look_into_outbox(stage_context: StageContext, now: datetime) -> None:
    """What the courier does with markers whose time has come."""
    for marker in stage_context.repository.outbox.waiting(now, 10):
        assert stage_context.repository.outbox.take(marker, now) is None


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
    logs = [f"run-logs/{run_id}/compute_logs/abcdefgh.err" for run_id in (finished, running)]
    for key in logs:
        stage_context.store.put(key, b"what it logged")
    assert prune(stage_context, instance, later(seconds=30)).runs == 0
    counts = prune(stage_context, instance, later(days=2))
    assert (counts.runs, counts.run_logs) == (1, 1)
    assert not instance.has_run(finished)
    assert instance.has_run(running)
    assert [info.key for info in stage_context.store.list("run-logs/")] == logs[1:]


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
        write_heartbeat(stage_context.store, WorkerHeartbeat(name, 1, "here", now - age, now - age))
    assert prune(stage_context, instance, now).heartbeats == 1
    assert [heartbeat.name for heartbeat in all_workers(stage_context.store)] == ["here"]


def test_what_cannot_be_removed_keeps_nothing_else_from_going(
    stage_context: StageContext, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that the operator protected must not fill the disk with everybody's."""
    run_stages(stage_context, "in-flight")
    delete = stage_context.repository.removal.delete

    def refuse_one(uuid: str) -> bool:
        if uuid == "in-flight":
            raise StoreUnavailable("the store cannot write assets/in-flight/: Permission denied.")
        return delete(uuid)

    monkeypatch.setattr(stage_context.repository.removal, "delete", refuse_one)
    instance.add_dynamic_partitions("jobs", ["finished"])
    counts = prune(stage_context, instance, later(seconds=120))
    assert (counts.jobs, counts.partitions, counts.failures) == (1, 1, 1)
    assert "Permission denied" in counts.first_failure


def test_a_prune_with_failures_is_a_failed_run_that_says_why(
    stage_context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(uuid: str) -> bool:
        raise StoreUnavailable("the store cannot write: Permission denied.")

    stage_context.repository.results.finish(make_result("finished", "completed", later(seconds=-1)))
    monkeypatch.setattr(stage_context.repository.removal, "delete", refuse)
    with pytest.raises(dg.Failure, match=r"1 removals failed.*Permission denied"):
        materialize_pruned(stage_context, {"dry_run": False})


def test_a_prune_ends_when_its_time_is_over_and_the_next_goes_on(
    stage_context: StageContext, instance: dg.DagsterInstance
) -> None:
    assert prune(stage_context, instance, later(seconds=120), limits=Limits(seconds=0)) == Pruned()
    assert prune(stage_context, instance, later(seconds=120)).jobs == 1


# The search for leftovers

A_FEW = Limits(searched=4)


def finish_jobs(stage_context: StageContext, count: int) -> list[str]:
    """Jobs that have ended and live for another hour."""
    uuids = [f"living-{number:04d}" for number in range(count)]
    for uuid in uuids:
        stage_context.store.put(keys.request(uuid), write(make_job(uuid)))
        stage_context.repository.results.finish(make_result(uuid, expires_at=later(hours=1)))
    return uuids


def leave_leftovers(stage_context: StageContext, instance: dg.DagsterInstance) -> None:
    """Files without a request, marks of ends without files, and partitions without a job, some
    before and some behind those of jobs that live."""
    for uuid in ("a-leftover", "z-leftover"):
        stage_context.store.put(f"assets/{uuid}/overlay.webp", b"overlay")
        stage_context.store.put(f"done/failed/{uuid}", b"")
    instance.add_dynamic_partitions("jobs", ["a-leftover", *living(stage_context), "z-leftover"])


def living(stage_context: StageContext) -> list[str]:
    """The jobs that have ended, by their marks."""
    infos = stage_context.store.list("done/completed/")
    return [info.key.removeprefix("done/completed/") for info in infos]


def rounds_until(
    stage_context: StageContext, instance: dg.DagsterInstance, is_over: Callable[[], bool]
) -> int:
    """How many prunes that takes, two hours after all was written."""
    for number in range(200):
        if is_over():
            return number
        prune(stage_context, instance, later(hours=2), limits=A_FEW)
    raise AssertionError("the search does not get there")


@pytest.fixture
def searched(store: Store, tmp_path: Path, instance: dg.DagsterInstance) -> StageContext:
    """Twelve jobs that live for a day, and leftovers among them."""
    stage_context = make_context(tmp_path, store)
    finish_jobs(stage_context, 12)
    for uuid in living(stage_context):
        stage_context.repository.results.finish(make_result(uuid, expires_at=later(days=1)))
    leave_leftovers(stage_context, instance)
    return stage_context


def is_clean(stage_context: StageContext, instance: dg.DagsterInstance) -> bool:
    """Whether only what belongs to the twelve is left."""
    store = stage_context.store
    return (
        [*store.list_folders("assets/")] == living(stage_context)
        and store.list("done/failed/") == []
        and [*instance.get_dynamic_partitions("jobs")] == living(stage_context)
    )


def test_leftovers_are_found_within_a_round_and_nothing_else_goes(
    searched: StageContext, instance: dg.DagsterInstance
) -> None:
    names = 14 + 12 + 2 + 14
    prunes = rounds_until(searched, instance, lambda: is_clean(searched, instance))
    assert names // A_FEW.searched - 1 <= prunes <= names // A_FEW.searched + 1
    assert len(living(searched)) == 12


def test_leftovers_are_found_whatever_prune_dies_in_between(
    searched: StageContext, instance: dg.DagsterInstance
) -> None:
    """Every second prune is killed, each time before a later write."""
    for lives in range(60):
        dying = UnreliableStore(searched.store, lives % 7)
        with suppress(Killed):
            context = replace(searched, store=dying)
            prune(context, instance, later(hours=2), limits=A_FEW)
        prune(searched, instance, later(hours=2), limits=A_FEW)
        if is_clean(searched, instance):
            return
    raise AssertionError("the search does not get there")


def test_a_search_goes_on_where_it_was_and_says_how_far_it_is(
    searched: StageContext, instance: dg.DagsterInstance
) -> None:
    first = prune(searched, instance, later(hours=2), limits=A_FEW)
    assert (first.searched, first.searched_in_round) == (4, 4)
    assert first.search_stands_at == "assets/living-0002"
    second = prune(searched, instance, later(hours=3), limits=A_FEW)
    assert (second.searched, second.searched_in_round) == (4, 8)
    assert second.search_stands_at == "assets/living-0006"
    assert second.search_round_began_at == first.search_round_began_at
    assert second.former_round_ended_at == ""
    whole = prune(searched, instance, later(hours=4))
    assert (whole.search_stands_at, whole.searched) == ("the beginning", 6 + 12 + 1 + 14)
    assert whole.former_round_ended_at == whole.search_round_began_at


def test_a_dry_run_searches_and_does_not_move_on(
    searched: StageContext, instance: dg.DagsterInstance
) -> None:
    for _ in range(2):
        counts = prune(searched, instance, later(hours=2), dry_run=True)
        assert (counts.orphans, counts.partitions, counts.searched_in_round) == (2, 2, 0)
    assert searched.store.head("state/leftovers") is None
    assert not is_clean(searched, instance)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"began_at": 1}', b"\xff"])
def test_a_search_that_cannot_read_where_it_was_begins_anew(
    searched: StageContext, instance: dg.DagsterInstance, content: bytes
) -> None:
    searched.store.put("state/leftovers", content)
    assert prune(searched, instance, later(hours=2)).orphans == 2


@pytest.mark.process
def test_a_prune_calls_the_store_as_often_whatever_the_number_of_living_jobs(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    calls = []
    for living_jobs in (10, 5000):
        stage_context = make_context(tmp_path)
        uuids = finish_jobs(stage_context, living_jobs)
        instance.add_dynamic_partitions("jobs", uuids)
        counted = UnreliableStore(stage_context.store)
        prune(replace(stage_context, store=counted), instance, later(minutes=1), limits=A_FEW)
        calls.append(counted.calls)
    assert calls[0] == calls[1]
    assert 20 < calls[0].total() < 60


def materialize_pruned(
    stage_context: StageContext, config: dict[str, bool]
) -> dg.ExecuteInProcessResult:
    """The asset with that configuration, as somebody launches it in the UI."""
    return dg.materialize(
        [pruned],
        selection=[pruned],
        resources={"stage_context": stage_context},
        run_config={"ops": {"pruned": {"config": config}}},
    )


def test_a_prune_by_hand_removes_nothing_and_the_schedule_does() -> None:
    assert PruneConfig().dry_run
    request = prune_schedule.evaluate_tick(dg.build_schedule_context()).run_requests
    assert [each.run_config for each in request or ()] == [
        {"ops": {"pruned": {"config": {"dry_run": False}}}}
    ]


def test_the_asset_reports_what_went(stage_context: StageContext) -> None:
    result = materialize_pruned(stage_context, {})
    (event,) = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert (metadata["dry_run"].value, metadata["jobs"].value) == (True, 0)
    assert metadata["searched"].value == 4  # three jobs' files and the mark of one's end
    assert metadata["search_stands_at"].value == "the beginning"


def test_an_idempotency_key_goes_after_its_time(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    stage_context = make_context(tmp_path, idempotency_key_seconds=60)
    stage_context.repository.idempotency.uuid_of("key", "asked", "job-1")
    assert prune(stage_context, instance, later(seconds=59)) == Pruned()
    assert prune(stage_context, instance, later(seconds=61)).idempotency_keys == 1
    assert stage_context.store.list(keys.IDEMPOTENCY) == []


def test_a_batch_s_jobs_stay_as_long_as_the_batch(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """Its first jobs are over long before its last ones are, and one file shall hold all."""
    stage_context = make_context(tmp_path)
    repository = stage_context.repository
    batch = accept_batch(repository, ttl_seconds=7200)
    advance(repository)
    finish_waiting(repository)
    advance(repository)
    assert prune(stage_context, instance, NOON + timedelta(hours=1.5)).jobs == 0
    counts = prune(stage_context, instance, NOON + timedelta(hours=2))
    assert (counts.batches, counts.jobs) == (1, 3)
    assert repository.batches.find(batch.id) is None


def test_what_a_webhook_does_not_know_yet_is_kept_while_there_are_webhooks(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    for hosts, removed in (("hooks.example.com", 0), (None, 1)):
        stage_context = make_context(tmp_path, webhook_hosts=hosts)
        job = make_job(webhook="https://hooks.example.com/", ttl_seconds=60)
        stage_context.repository.acceptance.accept(job, b"picture")
        stage_context.repository.results.finish(make_result(expires_at=NOON))
        assert prune(stage_context, instance, NOON + timedelta(days=1)).jobs == removed
    assert stage_context.store.list(keys.WEBHOOKS) == []


def test_a_batch_stays_until_its_webhook_knows(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    for hosts, removed in (("hooks.example.com", 0), (None, 1)):
        stage_context = make_context(tmp_path / str(removed), webhook_hosts=hosts)
        accept_batch(stage_context.repository, 1, webhook="https://hooks.example.com/")
        advance(stage_context.repository)
        finish_waiting(stage_context.repository)
        advance(stage_context.repository)
        assert prune(stage_context, instance, NOON + timedelta(days=1)).batches == removed
    assert stage_context.store.list(keys.WEBHOOKS) == []
