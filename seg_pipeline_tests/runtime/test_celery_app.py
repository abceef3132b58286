"""The embedded broker: whole messages, in order, one queue per deployment."""

from itertools import count
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest
from celery import Celery
from kombu import Queue

from seg_pipeline.domain import Lane
from seg_pipeline.runtime.celery_app import (
    EXECUTE_RUN_TASK,
    FOLDER_POLL_SECONDS,
    LONGEST_WAIT_SECONDS,
    PRIORITY_STEP,
    _check_acks,
    broker_folder,
    make_celery,
)
from seg_pipeline.settings import Settings
from seg_pipeline_tests.conftest import make_settings
from seg_pipeline_tests.odd_names import ODD_NAMES


def send(app: Celery, settings: Settings, run_id: str, priority: int = 0) -> None:
    queue = settings.celery_queue
    key = f"{queue}.run"
    app.send_task(EXECUTE_RUN_TASK, args=[run_id], queue=queue, routing_key=key, priority=priority)


def receive(app: Celery, settings: Settings) -> str | None:
    """The next message's run, as the worker gets it."""
    with app.connection_for_read() as connection, connection.channel() as channel:
        queue = Queue(
            settings.celery_queue, routing_key=f"{settings.celery_queue}.#", channel=channel
        )
        message = queue.get(no_ack=True)
        return None if message is None else message.payload[0][0]


def test_messages_come_once_and_in_order(folder_settings: Settings) -> None:
    app = make_celery(folder_settings)
    for run_id in ("first", "second", "third"):
        send(app, folder_settings, run_id)
    assert [receive(app, folder_settings) for _ in range(4)] == ["first", "second", "third", None]


@pytest.mark.parametrize("broker", ["folder", "redis"])
def test_runs_of_earlier_lanes_are_taken_first_from_every_broker(
    tmp_path: Path, broker: str, request: pytest.FixtureRequest
) -> None:
    url = f"{request.getfixturevalue('redis_url')}/0" if broker == "redis" else None
    settings = make_settings(tmp_path, broker_url=url, celery_queue=f"queue-{uuid4().hex}")
    app = make_celery(settings)
    receive(app, settings)  # declares the queue, as a worker does
    for lane in (Lane.BATCH, Lane.QUEUE, Lane.SINGLE, Lane.BATCH, Lane.SINGLE):
        send(app, settings, lane.name, PRIORITY_STEP * lane)
    taken = [receive(app, settings) for _ in range(6)]
    assert taken == ["SINGLE", "SINGLE", "QUEUE", "BATCH", "BATCH", None]


def test_half_a_message_is_never_delivered(folder_settings: Settings) -> None:
    app = make_celery(folder_settings)
    send(app, folder_settings, "whole")
    (message,) = (broker_folder(folder_settings) / "messages").glob("*.msg")
    message.rename(message.with_name(f".{message.name}.part"))
    assert receive(app, folder_settings) is None


def test_deployments_on_one_broker_do_not_take_each_others_runs(tmp_path: Path) -> None:
    one, other = (make_settings(tmp_path, celery_queue=name) for name in ("one", "other"))
    send(make_celery(one), one, "mine")
    assert receive(make_celery(other), other) is None
    assert receive(make_celery(one), one) == "mine"


def test_a_broker_url_takes_the_folders_place(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, broker_url="redis://127.0.0.1:6379/0")
    assert make_celery(settings).conf.broker_url == "redis://127.0.0.1:6379/0"
    assert not broker_folder(settings).exists()


def test_a_worker_that_waits_for_a_message_soon_looks_whether_it_is_to_stop(
    folder_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of our own: Celery asks for two seconds, and once more after it was told to
    stop."""
    clock = count(step=FOLDER_POLL_SECONDS)
    monkeypatch.setattr("kombu.transport.virtual.base.monotonic", lambda: next(clock))
    monkeypatch.setattr("kombu.transport.virtual.base.sleep", lambda _: None)
    with make_celery(folder_settings).connection_for_read() as connection:
        connection.default_channel.basic_consume(folder_settings.celery_queue, True, print, "tag")
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=2.0)
    assert next(clock) < 2 * LONGEST_WAIT_SECONDS


@pytest.mark.parametrize("setting", ["task_acks_late", "task_ignore_result"])
def test_nothing_is_held_back_or_kept(folder_settings: Settings, setting: str) -> None:
    app = make_celery(folder_settings)
    assert app.conf[setting] is True
    assert app.conf.worker_prefetch_multiplier == 1


@pytest.mark.parametrize("name", ODD_NAMES)
def test_the_folders_name_is_not_read_as_a_url(tmp_path: Path, name: str) -> None:
    settings = make_settings(tmp_path / name)
    send(make_celery(settings), settings, "mine")
    assert receive(make_celery(settings), settings) == "mine"
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_a_message_that_could_not_be_acknowledged_makes_the_worker_connect_anew(
    tmp_path: Path, redis_url: str
) -> None:
    """It counts as being in hand for ever. The worker would wait until somebody restarts it."""
    settings = make_settings(tmp_path, broker_url=f"{redis_url}7", celery_queue=tmp_path.name)
    app = make_celery(settings)
    with app.connection_for_read() as connection, connection.channel() as channel:
        queue = Queue(
            settings.celery_queue, routing_key=f"{settings.celery_queue}.#", channel=channel
        )
        channel.basic_qos(0, 1, False)
        consumer = SimpleNamespace(task_consumer=SimpleNamespace(channel=channel))
        send(app, settings, "run-1")
        _check_acks(consumer)
        message = queue.get()
        with pytest.raises(ConnectionResetError):
            _check_acks(consumer)
        message.ack()
        _check_acks(consumer)
