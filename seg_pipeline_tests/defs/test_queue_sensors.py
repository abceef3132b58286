"""The ticks at the service's two ends, with a real queue and a real app server."""

import json
import secrets
import threading
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import pytest

from seg_pipeline.adapters.outbox_relay import OutboxRelay
from seg_pipeline.adapters.sqs_consumer import SqsConsumer
from seg_pipeline.adapters.sqs_polling import SqsPoller
from seg_pipeline.adapters.webhook_relays import WebhookRelays
from seg_pipeline.defs.queue_sensors import (
    build_courier_sensor,
    build_queue_sensor,
    build_webhooks_sensor,
)
from seg_pipeline.errors import StoreUnavailable
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.settings import Settings
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline_tests.app_servers import app_server, say
from seg_pipeline_tests.aws import REGION
from seg_pipeline_tests.builders import end_queue_job, make_job, make_result
from seg_pipeline_tests.conftest import make_settings


@pytest.fixture
def repository() -> JobRepository:
    return JobRepository(ObjectStore.in_memory())


def make_quick_settings(**values: Any) -> Settings:
    return make_settings(Path("nowhere"), tick_seconds=0.3, inbox_poll_seconds=0.02, **values)


def tick_courier(
    repository: JobRepository, settings: Settings, instance: dg.DagsterInstance
) -> dg.SensorResult:
    """One tick, and what the daemon does with its events."""
    context = dg.build_sensor_context(
        instance=instance, resources={"relay": OutboxRelay(repository.store, settings)}
    )
    result = build_courier_sensor(settings)(context)
    assert isinstance(result, dg.SensorResult)
    for event in result.asset_events:
        instance.report_runless_asset_event(event)
    return result


def skip_message(result: dg.SensorResult | dg.SkipReason | Any) -> str:
    skipped = result.skip_reason if isinstance(result, dg.SensorResult) else result
    return str(skipped.skip_message if isinstance(skipped, dg.SkipReason) else skipped)


# Out


def test_a_partition_turns_green_when_the_app_server_knows(
    repository: JobRepository, instance: dg.DagsterInstance
) -> None:
    end_queue_job(repository)
    with app_server() as server:
        result = tick_courier(repository, make_quick_settings(app_server_url=server.url), instance)
    assert server.uuids() == ["job-1"]
    assert set(instance.get_materialized_partitions(dg.AssetKey("callback"))) == {"job-1"}
    event = instance.get_latest_materialization_event(dg.AssetKey("callback"))
    assert event is not None
    assert event.asset_materialization is not None
    metadata = {name: value.value for name, value in event.asset_materialization.metadata.items()}
    assert (metadata["state"], metadata["attempts"], metadata["http_status"]) == (
        "delivered",
        1,
        200,
    )
    assert float(str(metadata["seconds"])) >= 0
    assert float(str(metadata["seconds_since_recorded"])) >= 0
    assert skip_message(result) == "1 delivered, 0 parked."


def test_a_parked_delivery_is_observed_with_its_reason_and_not_green(
    repository: JobRepository, instance: dg.DagsterInstance
) -> None:
    end_queue_job(repository)
    with app_server(say(404, b"unknown uuid")) as server:
        result = tick_courier(repository, make_quick_settings(app_server_url=server.url), instance)
    assert set(instance.get_materialized_partitions(dg.AssetKey("callback"))) == set()
    (observation,) = result.asset_events
    assert isinstance(observation, dg.AssetObservation)
    assert observation.partition == "job-1"
    assert (
        observation.metadata["reason"].value
        == "the app server answered 404 Not Found: unknown uuid"
    )
    assert skip_message(result) == "0 delivered, 1 parked."


def test_a_tick_carries_a_whole_backlog(
    repository: JobRepository, instance: dg.DagsterInstance
) -> None:
    uuids = {f"job-{number}" for number in range(10)}
    for uuid in uuids:
        end_queue_job(repository, uuid)
    with app_server() as server:
        settings = make_quick_settings(app_server_url=server.url).model_copy(
            update={"tick_seconds": 20}
        )
        tick_courier(repository, settings, instance)
    assert set(instance.get_materialized_partitions(dg.AssetKey("callback"))) == uuids


def test_what_ends_in_the_same_moments_is_told_in_the_same_tick(
    repository: JobRepository, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two ticks lies a pause, for which the second of two pictures would wait."""
    monkeypatch.setattr("seg_pipeline.defs.queue_sensors.REPORTED_WITHIN_SECONDS", 1.0)
    end_queue_job(repository, "first")
    with app_server() as server:
        settings = make_quick_settings(app_server_url=server.url).model_copy(
            update={"tick_seconds": 20}
        )
        late = threading.Timer(0.2, lambda: end_queue_job(repository, "second"))
        late.start()
        tick_courier(repository, settings, instance)
        late.join()
    assert set(instance.get_materialized_partitions(dg.AssetKey("callback"))) == {"first", "second"}


def test_a_tick_says_that_the_app_server_is_down(
    repository: JobRepository, instance: dg.DagsterInstance
) -> None:
    for number in range(4):
        end_queue_job(repository, f"job-{number}")
    with app_server(say(500, b"oops")) as server:
        result = tick_courier(repository, make_quick_settings(app_server_url=server.url), instance)
    assert result.asset_events == []
    message = skip_message(result)
    assert (
        "The last attempt failed: the app server answered 500 Internal Server Error: oops"
        in message
    )
    assert "counts as down" in message


def test_a_store_that_goes_away_after_a_delivery_does_not_hide_it(
    repository: JobRepository, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_queue_job(repository)
    with app_server() as server:
        settings = make_quick_settings(app_server_url=server.url)
        courier = OutboxRelay(repository.store, settings)
        deliver, rounds = courier.deliver, []

        def deliver_once(*asked: Any) -> Any:
            rounds.append(1)
            if len(rounds) > 1:
                raise StoreUnavailable("it is away.")
            return deliver(*asked)

        monkeypatch.setattr(courier, "deliver", deliver_once)
        context = dg.build_sensor_context(instance=instance, resources={"relay": courier})
        result = build_courier_sensor(settings)(context)
    assert isinstance(result, dg.SensorResult)
    assert len(result.asset_events) == 1


def test_without_an_app_server_nothing_runs(
    repository: JobRepository, instance: dg.DagsterInstance
) -> None:
    settings = make_quick_settings()
    sensor = build_courier_sensor(settings)
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
    context = dg.build_sensor_context(
        instance=instance, resources={"relay": OutboxRelay(repository.store, settings)}
    )
    assert skip_message(sensor(context)) == "APP_SERVER_URL is not set: there is nobody to tell."


# In


@pytest.fixture
def queue_settings(aws_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with an empty queue of their own."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    client = boto3.client("sqs", endpoint_url=aws_endpoint, region_name=REGION)
    url = client.create_queue(QueueName=f"queue-{secrets.token_hex(6)}")["QueueUrl"]
    return make_quick_settings(sqs_queue_url=url, sqs_endpoint_url=aws_endpoint)


def tick_queue(repository: JobRepository, settings: Settings, instance: dg.DagsterInstance) -> str:
    poller = SqsPoller(SqsConsumer(settings, repository))
    context = dg.build_sensor_context(instance=instance, resources={"poller": poller})
    return skip_message(build_queue_sensor(settings)(context))


def test_a_message_waits_in_the_inbox_after_a_tick(
    repository: JobRepository,
    queue_settings: Settings,
    instance: dg.DagsterInstance,
    aws_endpoint: str,
) -> None:
    client = boto3.client("sqs", endpoint_url=aws_endpoint, region_name=REGION)
    body = json.dumps({"uuid": "job-1", "image_url": "https://cdn.example.com/sample.jpg"})
    client.send_message(QueueUrl=queue_settings.sqs_queue_url, MessageBody=body)
    assert tick_queue(repository, queue_settings, instance) == "Took 1 jobs from the queue."
    assert repository.fetches.uuids() == ["job-1"]
    assert tick_queue(repository, queue_settings, instance) == "No job came by the queue."


def test_a_tick_says_that_the_queue_is_away(
    repository: JobRepository, queue_settings: Settings, instance: dg.DagsterInstance
) -> None:
    away = queue_settings.model_copy(update={"sqs_endpoint_url": "http://127.0.0.1:9"})
    message = tick_queue(repository, away, instance)
    assert "cannot be used" in message
    assert "The next try is in" in message


def test_without_a_queue_nothing_runs(
    repository: JobRepository, instance: dg.DagsterInstance
) -> None:
    settings = make_quick_settings()
    assert build_queue_sensor(settings).default_status is dg.DefaultSensorStatus.STOPPED
    assert (
        tick_queue(repository, settings, instance) == "SQS_QUEUE_URL is not set: there is no queue."
    )


@pytest.mark.parametrize("build", [build_courier_sensor, build_queue_sensor, build_webhooks_sensor])
def test_where_it_is_set_it_runs_from_the_start(build: Any) -> None:
    settings = make_quick_settings(
        app_server_url="https://app.example",
        sqs_queue_url="https://sqs.example/q",
        webhook_hosts="hooks.example.com",
    )
    assert build(settings).default_status is dg.DefaultSensorStatus.RUNNING


def test_a_partition_turns_green_when_a_webhook_knows(
    repository: JobRepository, instance: dg.DagsterInstance
) -> None:
    settings = make_quick_settings(webhook_hosts="127.0.0.1")
    with app_server() as server:
        repository.acceptance.accept(make_job(webhook=server.url), b"picture")
        repository.results.finish(make_result())
        context = dg.build_sensor_context(
            instance=instance,
            resources={"webhook_relays": WebhookRelays(repository.store, settings)},
        )
        result = build_webhooks_sensor(settings)(context)
    assert isinstance(result, dg.SensorResult)
    (event,) = result.asset_events
    assert (event.partition, skip_message(result)) == ("job-1", "1 delivered, 0 parked.")
    assert isinstance(event, dg.AssetMaterialization)
    assert len(server.told) == 1
