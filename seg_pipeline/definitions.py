"""The table of contents that Dagster loads."""

import dagster as dg

from seg_pipeline.defs.alarms import (
    alarm_checks,
    alarms_sensor,
    build_failure_alerts_sensor,
    check_job,
    service_asset,
)
from seg_pipeline.defs.asset_specs import ARRIVALS
from seg_pipeline.defs.assets import segmentation_assets
from seg_pipeline.defs.batch_sensors import batches_sensor
from seg_pipeline.defs.jobs import segment_images
from seg_pipeline.defs.operations import operator_jobs
from seg_pipeline.defs.pruning import prune_job, prune_schedule, pruned
from seg_pipeline.defs.queue_sensors import (
    build_courier_sensor,
    build_queue_sensor,
    build_webhooks_sensor,
)
from seg_pipeline.defs.resources import (
    passed_jobs_io_manager,
    poller_resource,
    relay_resource,
    stage_context_resource,
    webhook_relays_resource,
)
from seg_pipeline.defs.result_checks import (
    audit_job,
    audit_schedule,
    audited_asset,
    callbacks_delivered,
    result_audit,
)
from seg_pipeline.defs.sensors import inbox_sensor, sweeper
from seg_pipeline.settings import get_settings

# At module level: a worker keeps the last definitions it loaded, and a function would be called
# again per job.
defs = dg.Definitions(
    assets=[*ARRIVALS, segmentation_assets, pruned, service_asset, audited_asset],
    asset_checks=[*alarm_checks, result_audit, callbacks_delivered],
    jobs=[segment_images, prune_job, check_job, audit_job, *operator_jobs],
    sensors=[
        build_queue_sensor(get_settings()),
        batches_sensor,
        inbox_sensor,
        sweeper,
        build_courier_sensor(get_settings()),
        build_webhooks_sensor(get_settings()),
        alarms_sensor,
        build_failure_alerts_sensor(get_settings()),
    ],
    schedules=[prune_schedule, audit_schedule],
    resources={
        "stage_context": stage_context_resource,
        "passed_jobs": passed_jobs_io_manager,
        "poller": poller_resource,
        "relay": relay_resource,
        "webhook_relays": webhook_relays_resource,
    },
    executor=dg.in_process_executor,
)
