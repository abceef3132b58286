"""What the log says of a request."""

import io
import json
from collections.abc import Iterator

import pytest

from seg_pipeline.store import Store
from seg_pipeline_tests.api.serving import Serve
from seg_pipeline_tests.api.stand_ins import DRAWING, FakeWorker
from seg_pipeline_tests.builders import picture_bytes
from seg_pipeline_tests.log_streams import logging_to


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the process logs, set up as `api.main` does."""
    with logging_to(io.StringIO(), "api") as stream:
        yield stream


def test_every_line_about_a_job_carries_its_uuid(
    serve: Serve, api_store: Store, log: io.StringIO
) -> None:
    """Also the server's own access line, and no line of the next request on the connection."""
    client = serve()
    with FakeWorker(api_store, DRAWING):
        client.post("/segment?uuid=mine", content=picture_bytes())
    client.get("/livez")
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    accepted, access, probe = [
        line for line in lines if line["logger"].startswith(("api.", "uvicorn.access"))
    ]
    assert (accepted["event"], accepted["uuid"], accepted["process"]) == ("accepted", "mine", "api")
    assert access["uuid"] == "mine"
    assert "/livez" in probe["event"]
    assert "uuid" not in probe
