"""The client and the service know nothing of each other: here their words are held together."""

import json
from typing import get_args, get_type_hints

from api.error_responses import STATUS_BY_CODE, no_masks_found
from seg_client import batch_flows, flows, options, retries
from seg_pipeline.adapters import remote_service
from seg_pipeline.domain import Priority
from seg_pipeline.jobs.batch_records import BatchStatus
from seg_pipeline.jobs.records import OUTCOMES
from seg_pipeline.prompts import PROMPT_PARAMETERS


def test_a_job_has_ended_by_the_same_words() -> None:
    assert set(flows.FINISHED) == set(OUTCOMES)
    assert set(remote_service._ENDS) == {*OUTCOMES, "deleted"}


def test_a_batch_has_ended_by_the_same_words() -> None:
    assert set(batch_flows.ENDED) == {*BatchStatus} - {BatchStatus.PROCESSING}


def test_the_same_parameters_are_prompts() -> None:
    assert options._PROMPTS == PROMPT_PARAMETERS


def test_the_same_priorities_can_be_named() -> None:
    named, _ = get_args(get_type_hints(options.Options)["priority"])
    assert set(get_args(named)) == {*Priority}


def test_what_passes_is_among_the_codes_of_the_service() -> None:
    assert STATUS_BY_CODE.keys() >= retries._BUSY_CODES


def test_both_clients_try_the_same_statuses_again() -> None:
    assert set(remote_service._TRY_AGAIN) == set(retries._GATEWAY_STATUSES)


def test_nothing_found_is_said_in_the_same_words() -> None:
    assert json.loads(bytes(no_masks_found().body)) == {"error": flows.NO_MASKS_FOUND}
