"""The tags by which runs are found."""

from dataclasses import replace

import pytest

from seg_pipeline.defs.run_tags import lane_of_run, tags_of_failure, tags_of_run
from seg_pipeline.domain import Lane
from seg_pipeline.errors import ModelOutOfMemory, TruncatedImage
from seg_pipeline.jobs.claims import Claim
from seg_pipeline_tests.builders import NOON

CLAIM = Claim("a", 1, "a:1", NOON, model="demo-yolo", came_by="http")


def test_a_run_of_one_job_names_it_and_how_it_came() -> None:
    assert tags_of_run([replace(CLAIM, attempt=2)]) == {
        "seg/job": "a",
        "seg/jobs": "1",
        "seg/attempt": "2",
        "seg/model": "demo-yolo",
        "seg/came_by": "http",
    }


def test_a_batch_names_the_first_job_and_what_all_have_in_common() -> None:
    tags = tags_of_run([CLAIM, replace(CLAIM, uuid="b", came_by="sqs")])
    assert (tags["seg/job"], tags["seg/jobs"]) == ("a", "2")
    assert (tags["seg/model"], tags["seg/came_by"]) == ("demo-yolo", "several")


def test_a_claim_of_an_older_version_has_neither_model_nor_way() -> None:
    tags = tags_of_run([replace(CLAIM, model="", came_by="")])
    assert set(tags) == {"seg/job", "seg/jobs", "seg/attempt"}


def test_a_path_to_weights_is_not_shown_whole() -> None:
    tags = tags_of_run([replace(CLAIM, model="/secret/place/mine.pt")])
    assert "secret" not in tags["seg/model"]


def test_a_failure_says_its_code_and_whose_fault_it_is() -> None:
    assert tags_of_failure(TruncatedImage("x")) == {
        "seg/code": "truncated_image",
        "seg/fault": "client",
    }
    assert tags_of_failure(ModelOutOfMemory("x"))["seg/fault"] == "ours"


@pytest.mark.parametrize("lane", Lane)
def test_a_run_says_its_lane(lane: Lane) -> None:
    assert lane_of_run(tags_of_run([CLAIM], lane)) is lane


def test_a_backfill_lets_all_others_go_first() -> None:
    assert lane_of_run({"dagster/backfill": "abcdefgh"}) is Lane.BATCH


def test_a_run_that_an_operator_or_an_older_version_made_has_the_lane_of_single_jobs() -> None:
    assert lane_of_run({}) is lane_of_run({"seg/lane": "unheard-of"}) is Lane.SINGLE
