"""A whole number is the same number whichever way it comes in: JSON, a query, a form, a path, a
message."""

from collections.abc import Callable, Iterator

import httpx
import pytest

from seg_pipeline.adapters.sqs_consumer import parse_message
from seg_pipeline.domain import Job
from seg_pipeline.errors import InvalidRequest
from seg_pipeline.store import open_store
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline_tests.api.serving import api_settings, serving
from seg_pipeline_tests.given_settings import GivenSettings

URL = "https://example.com/a.png"
SPELLINGS = {"256": 256, "256.0": 256, "256.000": 256, "2.56e2": 256, "25600e-2": 256, "2E2": 200}
"""As JSON has them (JSON Schema, 6.1.1), and what they are."""

OUT_OF_RANGE = ["256.5", "1e400", "-1e400", "0", "-256", "8193", "1e-5", "9" * 30]
OF_ANOTHER_TYPE = ["true", '"256"', "[]", "{}"]
NO_NUMBERS = ["", "1_000", "0x100", "٢٥٦", "inf", "nan", "null", "1e", "2,56", "9" * 5000]

Way = Callable[[httpx.Client, str], httpx.Response]


def by_json(client: httpx.Client, number: str) -> httpx.Response:
    body = f'{{"image_url": "{URL}", "resize": {number}}}'
    return client.post("/jobs", content=body, headers={"Content-Type": "application/json"})


def by_query(client: httpx.Client, number: str) -> httpx.Response:
    return client.post("/jobs", params={"resize": number}, files={"image_url": (None, URL)})


def by_form(client: httpx.Client, number: str) -> httpx.Response:
    return client.post("/jobs", files={"resize": (None, number), "image_url": (None, URL)})


WAYS: tuple[Way, ...] = (by_json, by_query, by_form)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    settings = api_settings(tmp_path_factory.mktemp("numbers"), wait_seconds=0)
    with (
        serving(settings, open_store(settings)) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        yield client


def message(number: str, field: str = "resize") -> Job:
    """The job that a queue's message asks for."""
    body = f'{{"uuid": "a", "image_url": "{URL}", "{field}": {number}}}'
    return parse_message(body, GivenSettings(), ObjectStore.in_memory()).job


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_whole_number_is_that_number(
    client: httpx.Client, spelling: str
) -> None:
    for way in WAYS:
        assert way(client, spelling).json().get("resize") == SPELLINGS[spelling], way
    assert message(spelling).resize == SPELLINGS[spelling]
    assert message(spelling, "ttl_seconds").ttl_seconds == SPELLINGS[spelling]


@pytest.mark.parametrize("number", OUT_OF_RANGE)
def test_what_is_out_of_range_is_so_by_every_way(client: httpx.Client, number: str) -> None:
    for way in WAYS:
        response = way(client, number)
        assert (response.status_code, response.json()["code"]) == (422, "invalid_resize"), way
    with pytest.raises(InvalidRequest):
        message(number)


@pytest.mark.parametrize("value", OF_ANOTHER_TYPE)
def test_json_and_messages_take_numbers_for_numbers_alone(client: httpx.Client, value: str) -> None:
    assert by_json(client, value).json()["code"] == "invalid_resize"
    with pytest.raises(InvalidRequest):
        message(value)


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_text_that_json_would_not_call_a_number_is_none(client: httpx.Client, text: str) -> None:
    for way in (by_query, by_form):
        assert way(client, text).json()["code"] == "invalid_resize", way


def test_paths_and_pages_count_the_same_way(client: httpx.Client) -> None:
    assert client.get("/jobs", params={"limit": "1e1"}).status_code == 200
    assert client.get("/jobs", params={"limit": "1_0"}).status_code == 422
    assert client.post("/segment/1_0").json()["code"] == "invalid_resize"
    assert client.post("/segment/2.56e2").json()["code"] == "empty_image"


def test_leading_zeros_go_in_a_path_as_they_always_did(client: httpx.Client) -> None:
    """The service that this one replaces took any digits there."""
    assert client.post("/segment/0256").json()["code"] == "empty_image"


def test_parameters_may_be_null_by_every_way(client: httpx.Client) -> None:
    form = {"image_url": (None, URL), "parameters": (None, "null")}
    assert client.post("/jobs", files=form).status_code == 202
    assert client.post("/jobs", json={"image_url": URL, "parameters": None}).status_code == 202
    assert message("null", "parameters").parameters == {}
