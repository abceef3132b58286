"""What turns red in Dagster, and who is told."""

from typing import Any

import dagster as dg

from seg_pipeline.definitions import defs
from seg_pipeline.defs.alarms import (
    SERVICE,
    AlarmBegan,
    alarm_checks,
    alarms_sensor,
    check_job,
    service_asset,
)
from seg_pipeline.defs.jobs import segment_images
from seg_pipeline.monitoring.service_state import AppServerState, note_app_server_state
from seg_pipeline.pipeline.stages import StageContext
from seg_pipeline.store import keys
from seg_pipeline_tests.builders import NOON
from seg_pipeline_tests.webhooks import Webhook


def tick(stage_context: StageContext, instance: dg.DagsterInstance) -> str:
    """One tick of `alarms`: what it says, or why it is red."""
    context = dg.build_sensor_context(instance=instance, resources={"stage_context": stage_context})
    try:
        result: Any = alarms_sensor(context)
    except AlarmBegan as error:
        return f"RED {error}"
    return str(result.skip_message)


def checks(instance: dg.DagsterInstance) -> dict[str, bool]:
    """The last evaluation of each check."""
    found = {}
    for definition in alarm_checks:
        (key,) = definition.check_keys
        (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
        event = record.event and record.event.dagster_event
        assert event
        assert event.asset_check_evaluation_data
        found[key.name] = event.asset_check_evaluation_data.passed
    return found


def test_a_quiet_service_is_green_and_nobody_is_told(
    stage_context: StageContext, instance: dg.DagsterInstance, people: Webhook
) -> None:
    assert tick(stage_context, instance).startswith("Nothing is parked.")
    assert set(checks(instance).values()) == {True}
    assert people.texts == []


def test_an_outage_is_red_once_and_ends_with_a_line(
    stage_context: StageContext, instance: dg.DagsterInstance, people: Webhook
) -> None:
    tick(stage_context, instance)
    note_app_server_state(stage_context.store, AppServerState(NOON, "it hangs up"))
    red, grey = tick(stage_context, instance), tick(stage_context, instance)
    assert red.startswith("RED ALARM app_server_answers: The app server has been down for")
    assert not grey.startswith("RED")
    assert checks(instance)["app_server_answers"] is False
    note_app_server_state(stage_context.store, AppServerState())
    assert tick(stage_context, instance).startswith("app_server_answers is well again after")
    assert checks(instance)["app_server_answers"] is True
    assert [text.partition(":")[0] for text in people.texts][:1] == ["ALARM app_server_answers"]
    assert len(people.texts) == 2


def test_a_verdict_that_stands_still_is_not_reported_again(
    stage_context: StageContext, instance: dg.DagsterInstance
) -> None:
    """A row of Dagster's tables each half minute would be a million a year."""
    for _ in range(3):
        tick(stage_context, instance)
    (key,) = alarm_checks[0].check_keys
    assert len(instance.event_log_storage.get_asset_check_execution_history(key, limit=10)) == 1


def test_people_who_cannot_be_reached_are_told_later(
    stage_context: StageContext, instance: dg.DagsterInstance, people: Webhook
) -> None:
    stage_context.store.put(keys.parked("m-1"), b"{}")
    people.status = 503
    assert tick(stage_context, instance).startswith("RED ALARM nothing_parked")
    people.status = 200
    tick(stage_context, instance)
    assert [text.partition(":")[0] for text in people.texts] == [
        "ALARM nothing_parked",
        "ALARM nothing_parked",
    ]
    tick(stage_context, instance)
    assert len(people.texts) == 2


def test_a_check_can_be_executed_by_hand(
    stage_context: StageContext, instance: dg.DagsterInstance
) -> None:
    stage_context.store.put(keys.parked("m-1"), b"{}")
    resources = {"stage_context": dg.ResourceDefinition.hardcoded_resource(stage_context)}
    own = dg.Definitions(
        [service_asset], asset_checks=alarm_checks, jobs=[check_job], resources=resources
    )
    result = own.resolve_job_def("check_service").execute_in_process(instance=instance)
    assert {each.check_name: each.passed for each in result.get_asset_check_evaluations()} == {
        "nothing_parked": False,
        "app_server_answers": True,
        "oldest_job_is_young": True,
        "prune_is_on_time": True,
        "not_drained": True,
    }


def test_a_segmentation_run_executes_no_check() -> None:
    """It would be a step of every job."""
    nodes = defs.resolve_job_def(segment_images.name).graph.node_dict
    assert list(nodes) == ["segmentation"]
    assert (
        SERVICE not in defs.resolve_job_def(segment_images.name).asset_layer.executable_asset_keys
    )


# Runs that failed
