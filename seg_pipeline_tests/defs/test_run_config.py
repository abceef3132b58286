"""Which jobs a run names."""

import dagster as dg

from seg_pipeline.defs.run_config import run_config_for, uuids_in_config, uuids_of_run


def test_the_configuration_names_its_jobs() -> None:
    assert uuids_in_config(run_config_for(["a", "b"])) == ["a", "b"]


def test_an_operators_run_names_its_partition() -> None:
    run = dg.DagsterRun(job_name="segment_images", tags={"dagster/partition": "a"})
    assert uuids_of_run(run) == ["a"]


def test_a_run_without_either_names_none() -> None:
    assert uuids_of_run(dg.DagsterRun(job_name="prune", run_config={"ops": {"pruned": {}}})) == []
