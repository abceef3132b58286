"""Alarms about the service as a whole, and alerts about failed runs.

The asset `service` carries a check for each alarm. Every half minute the sensor `alarms` judges
them all from the store, without a run. A change becomes a new evaluation of the check. An alarm
that begins also fails the tick. The sensor `failure_alerts` posts the failed runs that are our
fault.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from seg_pipeline.adapters.alert_webhook import send_alert
from seg_pipeline.defs.asset_specs import OPERATORS
from seg_pipeline.defs.failed_runs import FailureMemory, failure_of
from seg_pipeline.defs.queue_sensors import running_if
from seg_pipeline.monitoring.alarms import CHECKS, AlarmMemory, AlarmVerdict, judge
from seg_pipeline.monitoring.service_state import ServiceState, note_first_start, read_service_state
from seg_pipeline.pipeline.stages import StageContext
from seg_pipeline.runtime.upkeep import UPKEEP_TAG
from seg_pipeline.settings import Settings

SERVICE = dg.AssetKey("service")
ALARM_SECONDS = 30
LINES_KEPT = 20
"""At most so many of the last lines that could not be posted are tried again."""

service_asset = dg.AssetSpec(
    SERVICE,
    group_name="upkeep",
    owners=[OPERATORS],
    kinds={"python"},
    description="The service as a whole; its checks are the alarms (docs/operating.md).",
)


def _check(name: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=SERVICE,
        name=name,
        description=CHECKS[name].__doc__,
        required_resource_keys={"stage_context"},
    )
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        stage_context: StageContext = context.resources.stage_context
        verdict = CHECKS[name](_state_of(stage_context), stage_context.settings)
        return dg.AssetCheckResult(passed=verdict.passed, metadata=_metadata(verdict))

    return check


alarm_checks = [_check(name) for name in CHECKS]

check_job = dg.define_asset_job(
    "check_service",
    selection=dg.AssetSelection.checks_for_assets(SERVICE),
    executor_def=dg.in_process_executor,
    description=(
        "Judges all alarms now; the sensor `alarms` does so every half minute, without a run."
    ),
    tags={UPKEEP_TAG: "process"},
)


class AlarmBegan(Exception):
    """Turns a tick red; its message names the alarms that began."""


@dg.sensor(
    name="alarms",
    minimum_interval_seconds=ALARM_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Judges the checks of `service` every half minute; its tick is red when an alarm begins."
    ),
)
def alarms_sensor(
    context: dg.SensorEvaluationContext, stage_context: dg.ResourceParam[StageContext]
) -> dg.SkipReason:
    """One tick: judge, report what changed, alert the people on duty.

    A store that is unavailable turns the tick red too.
    """
    store, now = stage_context.store, datetime.now(UTC)
    note_first_start(store, now)
    verdicts = judge(_state_of(stage_context), stage_context.settings)
    memory = AlarmMemory.read(store)
    due = [verdict for verdict in verdicts if memory.is_due(verdict, now)]
    changes = [change for verdict in due if (change := memory.take(verdict, now))]
    for verdict in due:
        context.instance.report_runless_asset_event(_evaluation(verdict))
    memory.untold = _post(
        stage_context.settings, [*memory.untold, *(change.line for change in changes)]
    )
    memory.write(store)  # a cursor would not outlive a red tick
    if begun := [change.line for change in changes if change.begins]:
        raise AlarmBegan(" ".join(begun))
    ended = [change.line for change in changes]
    return dg.SkipReason(" ".join([*ended, *(verdict.sentence for verdict in verdicts)]))


def build_failure_alerts_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor that posts failures of ours; it runs where ALERT_WEBHOOK_URL is set."""

    @dg.sensor(
        name="failure_alerts",
        minimum_interval_seconds=ALARM_SECONDS,
        default_status=running_if(settings.alert_webhook_url),
        description=(
            "Posts runs that failed by a fault of ours to ALERT_WEBHOOK_URL, each kind once an"
            " hour."
        ),
    )
    def failure_alerts(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        if settings.alert_webhook_url is None:
            return dg.SkipReason("ALERT_WEBHOOK_URL is not set: there is nobody to tell.")
        now = datetime.now(UTC)
        memory = FailureMemory.read(context.cursor, now)
        failures = [
            failure_of(context.instance, run) for run in memory.take_new_runs(context.instance)
        ]
        for failure in failures:
            memory.count(failure, now)
        memory.untold = _post(settings, [*memory.untold, *memory.due_lines(now)])
        ours = sum(failure.is_ours for failure in failures)
        summary = f"{len(failures)} runs failed, {ours} of them by a fault of ours."
        return dg.SensorResult(cursor=memory.cursor(), skip_reason=dg.SkipReason(summary))

    return failure_alerts


def _state_of(stage_context: StageContext) -> ServiceState:
    return read_service_state(stage_context.store, stage_context.settings.worker_stale_seconds)


def _metadata(verdict: AlarmVerdict) -> dict[str, Any]:
    return {"says": verdict.sentence, **verdict.figures}


def _evaluation(verdict: AlarmVerdict) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        SERVICE, verdict.name, verdict.passed, metadata=_metadata(verdict)
    )


def _post(settings: Settings, lines: Sequence[str]) -> list[str]:
    """Posts the lines. Returns those to post again."""
    lines = lines[-LINES_KEPT:]
    return [] if not lines or send_alert(settings, "\n".join(lines)) else [*lines]
