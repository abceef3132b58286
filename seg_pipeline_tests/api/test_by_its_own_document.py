"""The API asked by its own OpenAPI document: what it says of itself holds, and nothing makes it
fail.

Seeded and bounded: the same requests every time. What a schema cannot say (which models there are,
whether a picture is one) makes valid requests be refused, so that is not checked.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as bounded
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.app import create_app
from seg_pipeline.jobs.heartbeats import FetcherHeartbeat, write_fetcher_heartbeat
from seg_pipeline.settings import Settings
from seg_pipeline.store import open_store
from seg_pipeline_tests.api.serving import api_settings, serving
from seg_pipeline_tests.api.stand_ins import heartbeat

pytestmark = pytest.mark.process

KEY = {"x-api-key": "s3cret"}
EXAMPLES = 20
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    allow_header_conformance,
]
DOCUMENT: dict[str, Any] = create_app(Settings(_env_file=None)).openapi()
OPERATIONS = [
    result.ok()
    for result in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()
    if isinstance(result, Ok)
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    settings = api_settings(
        tmp_path_factory.mktemp("document"),
        wait_seconds=0,
        api_keys="s3cret",
        worker_stale_seconds=900,
    )
    store = open_store(settings)
    heartbeat(store)
    now = datetime.now(UTC)
    write_fetcher_heartbeat(store, FetcherHeartbeat("fake", 1, "here", now))  # some jobs name a URL
    with serving(settings, store) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.mark.parametrize(
    "mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"]
)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_answers_are_those_that_the_document_names(
    client: httpx.Client, operation: Any, mode: GenerationMode
) -> None:
    url = str(client.base_url).rstrip("/")

    @seed(1)
    @bounded(
        max_examples=EXAMPLES, database=None, deadline=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate],
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case[Any]) -> None:
        response = case.call(base_url=url, headers=KEY)
        case.validate_response(response, checks=CHECKS)

    with suppress(Unsatisfiable):  # nothing about this operation can be wrong
        ask()
