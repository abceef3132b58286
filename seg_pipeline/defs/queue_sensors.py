"""The sensors at the service's two ends: SQS at one, the app server and webhooks at the other.

`queue` accepts jobs from SQS, `courier` delivers results to the app server, and `webhooks` delivers
those of jobs with a webhook. Each runs where its setting is set. Elsewhere it is listed as stopped,
and costs nothing.
"""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import dagster as dg

from seg_pipeline.adapters.outbox_relay import OutboxRelay
from seg_pipeline.adapters.sqs_polling import SqsPoller
from seg_pipeline.adapters.webhook_relays import WebhookRelays
from seg_pipeline.defs.assets import CALLBACK
from seg_pipeline.errors import NothingToTell, StoreError
from seg_pipeline.jobs.deliveries import Delivery, DeliveryState
from seg_pipeline.settings import Settings
from seg_pipeline.store import keys

LONGEST_TICK_SECONDS = 20.0
"""The last call may take as long again, and Dagster cuts a tick off after a minute."""

LONGEST_PAUSE_SECONDS = 1.0
REPORTED_WITHIN_SECONDS = 0.5
EVENTS_PER_TICK = 256


def build_queue_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor that moves messages from SQS_QUEUE_URL to the inbox.

    `inbox_sensor` then requests their runs.
    """

    @dg.sensor(
        name="queue",
        minimum_interval_seconds=1,
        default_status=running_if(settings.sqs_queue_url),
        description=(
            "Puts the queue's messages into the inbox and deletes them then. Runs where"
            " SQS_QUEUE_URL is set."
        ),
    )
    def queue(
        context: dg.SensorEvaluationContext, poller: dg.ResourceParam[SqsPoller]
    ) -> dg.SkipReason:
        if settings.sqs_queue_url is None:
            return dg.SkipReason("SQS_QUEUE_URL is not set: there is no queue.")
        return dg.SkipReason(poller.collect(_tick_seconds(settings)).summary())

    return queue


def build_courier_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor that delivers to APP_SERVER_URL and reports each delivery as `callback`."""

    @dg.sensor(
        name="courier",
        asset_selection=dg.AssetSelection.assets(CALLBACK),
        minimum_interval_seconds=1,
        default_status=running_if(settings.app_server_url),
        description=(
            "Tells the app server of jobs that came by the queue. Runs where APP_SERVER_URL is set."
        ),
    )
    def courier(
        context: dg.SensorEvaluationContext, relay: dg.ResourceParam[OutboxRelay]
    ) -> dg.SensorResult | dg.SkipReason:
        if settings.app_server_url is None:
            return dg.SkipReason(str(NothingToTell.to_nobody()))
        ended = _deliver(relay, settings)
        return _result(ended, _summary(relay, ended))

    return courier


def build_webhooks_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor that tells webhooks, and reports each delivery as `callback`."""

    @dg.sensor(
        name="webhooks",
        asset_selection=dg.AssetSelection.assets(CALLBACK),
        minimum_interval_seconds=1,
        default_status=running_if(settings.webhook_hosts),
        description=(
            "Tells the webhooks of jobs and batches that have one, each host beside the others."
            " Runs where WEBHOOK_HOSTS is set."
        ),
    )
    def webhooks(
        context: dg.SensorEvaluationContext, webhook_relays: dg.ResourceParam[WebhookRelays]
    ) -> dg.SensorResult | dg.SkipReason:
        if settings.webhook_hosts is None:
            return dg.SkipReason("WEBHOOK_HOSTS is not set: there are no webhooks.")
        ended = _deliver(webhook_relays, settings)
        return _result(ended, " ".join(_counts(ended)))

    return webhooks


def event_of(delivery: Delivery) -> dg.AssetMaterialization | dg.AssetObservation:
    """What Dagster shows of a delivery that has ended.

    A delivered one turns its partition green. A parked one is an observation with the reason.
    """
    last = delivery.attempts[-1] if delivery.attempts else None
    metadata: dict[str, Any] = {
        "state": str(delivery.state),
        "attempts": delivery.attempt_count,
        "http_status": last.status if last else None,
        "seconds": last.seconds if last else None,
        "seconds_since_recorded": _seconds(last.at - delivery.created_at) if last else None,
        "reason": delivery.reason,
    }
    known = {name: value for name, value in metadata.items() if value is not None}
    kind = (
        dg.AssetMaterialization
        if delivery.state is DeliveryState.DELIVERED
        else dg.AssetObservation
    )
    return kind(CALLBACK, partition=delivery.uuid, metadata=known)


def _result(ended: Sequence[Delivery], summary: str) -> dg.SensorResult:
    """What a tick reports. A batch has no partition, so its delivery is in the summary alone."""
    events = [event_of(each) for each in ended if not keys.batch_told(each.uuid)]
    return dg.SensorResult(asset_events=events, skip_reason=summary)


def running_if(setting: object) -> dg.DefaultSensorStatus:
    """Running where the setting is set, else stopped."""
    return dg.DefaultSensorStatus.RUNNING if setting else dg.DefaultSensorStatus.STOPPED


def _deliver(relay: OutboxRelay | WebhookRelays, settings: Settings) -> list[Delivery]:
    """Delivers until the tick is over, or until soon after some deliveries have ended.

    Deliveries that end within the same half second are reported together. So the next ones need not
    wait for the next tick.
    """
    ended: list[Delivery] = []
    report_at = 0.0
    deadline = time.monotonic() + _tick_seconds(settings)
    while (begin := time.monotonic()) < deadline and len(ended) < EVENTS_PER_TICK:
        try:
            done = relay.deliver(lambda: time.monotonic() < deadline)
        except StoreError:
            if ended:
                break  # they are to be reported
            # The next tick begins at once.
            time.sleep(min(LONGEST_PAUSE_SECONDS, settings.tick_seconds))
            raise
        if done.ended and not ended:
            report_at = time.monotonic() + REPORTED_WITHIN_SECONDS
        ended += done.ended
        if not done.ended:
            if ended and time.monotonic() >= report_at:
                break
            # A folder with thousands of parked deliveries takes a while to list.
            pause = min(10 * (time.monotonic() - begin), LONGEST_PAUSE_SECONDS)
            time.sleep(max(settings.inbox_pause_seconds, pause))
    return ended


def _summary(relay: OutboxRelay, ended: list[Delivery]) -> str:
    sentences = _counts(ended)
    if relay.problem:
        sentences.append(f"The last attempt failed: {relay.problem}")
    if wait := relay.wait_seconds():
        sentences.append(f"The app server counts as down; the next try is in {wait:.0f} s.")
    return " ".join(sentences)


def _counts(ended: list[Delivery]) -> list[str]:
    parked = sum(delivery.state is DeliveryState.PARKED for delivery in ended)
    return [f"{len(ended) - parked} delivered, {parked} parked."]


def _tick_seconds(settings: Settings) -> float:
    return min(settings.tick_seconds, LONGEST_TICK_SECONDS)


def _seconds(duration: timedelta) -> float:
    return round(duration.total_seconds(), 3)
