"""An hourly audit of what is stored: the files of the newest results are read as a client does.

The checks belong to an asset of their own. Checks of `result` would run with every materialisation
of it: they would repeat what the run has just computed, and every picture would pay for that.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice

import dagster as dg

from seg_pipeline.defs.asset_specs import OPERATORS
from seg_pipeline.defs.assets import CALLBACK
from seg_pipeline.jobs.outbox import Outbox
from seg_pipeline.monitoring.result_audit import (
    CHECKS,
    NEWEST,
    AuditedResult,
    AuditVerdict,
    audited,
    newest_results,
)
from seg_pipeline.pipeline.stage_names import StageName
from seg_pipeline.pipeline.stages import StageContext
from seg_pipeline.runtime.upkeep import UPKEEP_TAG

AUDITED = dg.AssetKey("audited_results")
DELIVERED_WITHIN = timedelta(minutes=10)
LOOKED_AT = 200
"""So many deliveries are read by an audit."""

NAMED = 20
"""So many bad results are named; the others are counted."""


audited_asset = dg.AssetSpec(
    AUDITED,
    deps=[StageName.RESULT.value, CALLBACK],
    group_name="upkeep",
    owners=[OPERATORS],
    kinds={"python"},
    description=(
        "Whether the newest results are what they say; its checks read them from the store.\n\n"
        "The schedule `hourly_audit` runs the checks. *Execute all* does so now."
    ),
)


class AuditConfig(dg.Config):
    """How many of the newest results are audited."""

    newest: int = NEWEST


@dg.multi_asset_check(
    name="result_audit",
    specs=[
        dg.AssetCheckSpec(name, asset=AUDITED, description=check.__doc__)
        for name, check in CHECKS.items()
    ],
    required_resource_keys={"stage_context"},
    can_subset=True,
)
def result_audit(
    context: dg.AssetCheckExecutionContext, config: AuditConfig
) -> Iterator[dg.AssetCheckResult]:
    """Audits the newest results."""
    results = _audited(context.resources.stage_context, config.newest)
    for key in sorted(context.selected_asset_check_keys):
        yield _check_result(CHECKS[key.name](results), key.name)


@dg.asset_check(
    asset=AUDITED,
    name="callbacks_delivered",
    description="No callback has waited for ten minutes: the app server was told of every job.",
    required_resource_keys={"stage_context"},
)
def callbacks_delivered(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """Judges the outbox."""
    stage_context: StageContext = context.resources.stage_context
    late = _late_callbacks(stage_context.repository.outbox, datetime.now(UTC))
    return dg.AssetCheckResult(passed=not late, metadata={"late": len(late), **_named(late)})


audit_job = dg.define_asset_job(
    "audit_results",
    selection=dg.AssetSelection.checks_for_assets(AUDITED),
    executor_def=dg.in_process_executor,
    description="Reads the files of the newest results, and checks that they agree.",
    tags={UPKEEP_TAG: "process"},
)

audit_schedule = dg.ScheduleDefinition(
    name="hourly_audit",
    job=audit_job,
    cron_schedule="37 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Audits the newest results every hour.",
)


def _late_callbacks(outbox: Outbox, now: datetime) -> dict[str, str]:
    """Of the first deliveries by uuid, those that wait for too long; with what came of them."""
    uuids = islice(sorted(outbox.uuids()), LOOKED_AT)
    deliveries = outbox.store.at_once([partial(outbox.delivery, uuid) for uuid in uuids])
    return {
        delivery.uuid: f"recorded at {delivery.created_at:%H:%M} UTC,"
        f" tried {delivery.attempt_count} times"
        for delivery in deliveries
        if delivery and delivery.is_pending and now - delivery.created_at > DELIVERED_WITHIN
    }


def _audited(stage_context: StageContext, newest: int) -> list[AuditedResult]:
    store, max_pixels = stage_context.store, stage_context.settings.max_image_pixels
    found = (audited(store, result, max_pixels) for result in newest_results(store, newest))
    return [each for each in found if each]


def _check_result(verdict: AuditVerdict, name: str) -> dg.AssetCheckResult:
    severity = dg.AssetCheckSeverity.WARN if name == "count_usual" else dg.AssetCheckSeverity.ERROR
    return dg.AssetCheckResult(
        asset_key=AUDITED,
        check_name=name,
        passed=verdict.passed,
        severity=severity,
        metadata={"audited": verdict.audited, "bad": len(verdict.bad), **_named(verdict.bad)},
    )


def _named(bad: Mapping[str, str]) -> dict[str, dg.MetadataValue[str]]:
    """The first bad ones as a list; nothing where all are good."""
    lines = [f"- `{uuid}`: {text}." for uuid, text in islice(bad.items(), NAMED)]
    return {"named": dg.MetadataValue.md("\n".join(lines))} if lines else {}
