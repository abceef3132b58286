"""The launcher: a run's id goes to its queue, and a run that is cancelled ends as cancelled."""

import shutil
import sys
from collections.abc import Iterator

import dagster as dg
import pytest
from celery import Celery
from dagster._core.launcher import LaunchRunContext
from kombu import Queue

from seg_pipeline.domain import Lane
from seg_pipeline.jobs.heartbeats import all_upkeep, died_here
from seg_pipeline.runtime import launcher as launching
from seg_pipeline.runtime import upkeep
from seg_pipeline.runtime.celery_app import make_celery
from seg_pipeline.runtime.launcher import WarmRunLauncher
from seg_pipeline.runtime.upkeep import UPKEEP_TAG, start_upkeep
from seg_pipeline.settings import Settings
from seg_pipeline.store import open_store
from seg_pipeline_tests.api.serving import eventually


@dg.job
def nothing() -> None:
    """A job to make runs of."""


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def launcher(
    instance: dg.DagsterInstance, folder_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> WarmRunLauncher:
    """The launcher of that instance, on a folder of its own."""
    monkeypatch.setattr(launching, "get_settings", lambda: folder_settings)
    made = WarmRunLauncher()
    made.register_instance(instance)
    return made


def make_run(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus, **tags: str
) -> dg.DagsterRun:
    return instance.create_run_for_job(nothing, status=status, tags=tags)


def status_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    stored = instance.get_run_by_id(run.run_id)
    assert stored is not None
    return stored.status


def received(app: Celery, name: str) -> list[str]:
    """The runs on a queue, which is declared first, as a worker does."""
    queue = Queue(
        name,
        exchange=app.amqp.queues[app.conf.task_default_queue].exchange,
        routing_key=f"{name}.#",
    )
    with app.connection_for_read() as connection, connection.channel() as channel:
        bound = queue(channel)
        bound.declare()
        messages = iter(lambda: bound.get(no_ack=True), None)
        return [message.payload[0][0] for message in messages]


def test_a_run_goes_to_the_deployments_queue(
    launcher: WarmRunLauncher, instance: dg.DagsterInstance, folder_settings: Settings
) -> None:
    run = make_run(instance, dg.DagsterRunStatus.STARTING)
    launcher.launch_run(LaunchRunContext(run, None))
    assert received(make_celery(folder_settings), folder_settings.celery_queue) == [run.run_id]


def test_a_run_of_an_earlier_lane_is_taken_first(
    launcher: WarmRunLauncher, instance: dg.DagsterInstance, folder_settings: Settings
) -> None:
    runs = [
        make_run(instance, dg.DagsterRunStatus.STARTING, **{"seg/lane": lane.name.lower()})
        for lane in reversed(Lane)
    ]
    for run in runs:
        launcher.launch_run(LaunchRunContext(run, None))
    taken = received(make_celery(folder_settings), folder_settings.celery_queue)
    assert taken == [run.run_id for run in reversed(runs)]


def test_upkeep_gets_a_process_and_no_worker(
    launcher: WarmRunLauncher,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    folder_settings: Settings,
) -> None:
    started: list[str] = []
    monkeypatch.setattr(launching, "start_upkeep", started.append)
    run = make_run(instance, dg.DagsterRunStatus.STARTING, **{UPKEEP_TAG: "true"})
    launcher.launch_run(LaunchRunContext(run, None))
    assert started == [run.run_id]
    assert received(make_celery(folder_settings), folder_settings.celery_queue) == []


def test_a_process_of_upkeep_that_ends_before_it_can_say_anything_is_known_to_have_died(
    folder_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts it writes its first heartbeat."""
    monkeypatch.setattr(upkeep, "get_settings", lambda: folder_settings)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    start_upkeep("r1")
    store = open_store(folder_settings)
    eventually(
        lambda: [(beat.name, died_here(beat)) for beat in all_upkeep(store)] == [("r1", True)]
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            dg.DagsterRunStatus.STARTING,
            dg.DagsterRunStatus.CANCELED,
        ),  # nobody has begun it, so nobody would end it
        (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING),  # its worker sees that
    ],
)
def test_a_run_that_is_terminated_is_cancelled(
    launcher: WarmRunLauncher,
    instance: dg.DagsterInstance,
    before: dg.DagsterRunStatus,
    after: dg.DagsterRunStatus,
) -> None:
    run = make_run(instance, before)
    assert launcher.terminate(run.run_id)
    assert status_of(instance, run) is after


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE])
def test_a_run_that_is_over_stays_as_it_ended(
    launcher: WarmRunLauncher, instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    run = make_run(instance, status)
    assert not launcher.terminate(run.run_id)
    assert status_of(instance, run) is status


def test_a_run_that_is_gone_cannot_be_terminated(launcher: WarmRunLauncher) -> None:
    assert not launcher.terminate("3f9a7b5e-0000-0000-0000-000000000000")
