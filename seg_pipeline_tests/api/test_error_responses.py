"""One table from error code to status."""

from collections.abc import Iterator

import httpx
import pytest

import api.error_responses
from api.error_responses import STATUS_BY_CODE, failure_response, status_of
from seg_pipeline.errors import SegPipelineError, StoreUnavailable
from seg_pipeline.store import Store
from seg_pipeline_tests.api.serving import Serve, eventually
from seg_pipeline_tests.api.stand_ins import FailingStore


def every_error(
    root: type[SegPipelineError] = SegPipelineError,
) -> Iterator[type[SegPipelineError]]:
    yield root
    for child in root.__subclasses__():
        yield from every_error(child)


def test_every_error_of_the_tree_has_its_status() -> None:
    assert {error.code for error in every_error()} - STATUS_BY_CODE.keys() == set()


def test_a_code_that_is_not_known_yet_is_our_fault() -> None:
    assert status_of("brand_new") == 500


def test_a_failure_names_its_job_and_when_to_come_again() -> None:
    response = failure_response("store_unavailable", "away.", "mine")
    assert bytes(response.body) == b'{"error":"away.","code":"store_unavailable","uuid":"mine"}'
    assert response.headers["retry-after"]


class Surprise(Exception):
    """Nobody expected this."""


def test_a_surprise_is_a_plain_500_and_its_text_stays_in_the_log(
    serve: Serve, api_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    surprising = FailingStore(api_store)
    client = serve(surprising)
    surprising.error = Surprise("the password is swordfish")
    response: httpx.Response = client.get("/jobs/mine")
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert "swordfish" not in response.text
    eventually(lambda: "swordfish" in caplog.text)


def test_a_5xx_is_logged_and_a_4xx_is_not(
    serve: Serve, api_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    failing = FailingStore(api_store)
    client = serve(failing)
    client.get("/jobs/mine")
    assert not [record for record in caplog.records if record.name == api.error_responses.__name__]
    failing.error = StoreUnavailable("it is away.")
    client.get("/jobs/mine")
    assert "it is away." in caplog.text
