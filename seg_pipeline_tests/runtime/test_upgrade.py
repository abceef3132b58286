"""Stop, upgrade, start, with jobs in flight and in the outbox: on Redis and Postgres, as in
production. Nothing is lost, and the app server hears of each job once more at most.

Beside what this version left is the store that commit b47f6bb left."""

import json
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from PIL import Image

from seg_pipeline.domain import JobStatus
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.local.sample import BUNDLED
from seg_pipeline.store import Store, keys, open_store
from seg_pipeline.store.format import FORMAT
from seg_pipeline_tests.app_servers import AppServerDouble, app_server, say
from seg_pipeline_tests.aws import REGION
from seg_pipeline_tests.builders import saved, waiting_uuids
from seg_pipeline_tests.conftest import make_settings
from seg_pipeline_tests.running_stack import Stack
from seg_pipeline_tests.servers import require_servers
from seg_pipeline_tests.serving import serving
from seg_pipeline_tests.store.test_format import read_older_store

pytestmark = pytest.mark.slow

CREDENTIALS = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
UPLOADS = [f"upload-{number:02d}" for number in range(16)]
MESSAGES = [f"message-{number}" for number in range(2)]
UNFINISHED = [*UPLOADS, "waiting-upload", "waiting-fetch", "in-flight"]
STATUSES = {
    **dict.fromkeys(MESSAGES, "completed"),
    **dict.fromkeys(("waiting-fetch", "in-flight", "to-tell", "put-off"), "completed"),
    "failed-to-tell": "failed",
}
"""What the app server is told after the upgrade."""

PARKED_BY_OLDER_VERSION = 2


def sample(_environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """A server with one picture."""
    start_response("200 OK", [("Content-Length", str(BUNDLED.stat().st_size))])
    return [BUNDLED.read_bytes()]


@pytest.fixture
def server() -> Iterator[AppServerDouble]:
    """An app server that is down."""
    with app_server() as server:
        server.answers = [say(503)]
        yield server


@pytest.fixture
def picture_url() -> Iterator[str]:
    """The address of a picture."""
    with serving(sample) as address:
        yield f"{address}/sample.jpg"


@pytest.fixture
def stack(tmp_path: Path, aws_endpoint: str, server: AppServerDouble, picture_url: str) -> Stack:
    """The service on servers, with a queue in which messages wait; small batches, so that
    much is left when it stops."""
    require_servers()
    queue = boto3.client("sqs", endpoint_url=aws_endpoint, region_name=REGION, **CREDENTIALS)
    url = queue.create_queue(QueueName=f"queue-{secrets.token_hex(6)}")["QueueUrl"]
    settings = {
        "SQS_QUEUE_URL": url, "SQS_ENDPOINT_URL": aws_endpoint, "QUEUE_MODEL": "demo-yolo",
        "APP_SERVER_URL": server.url, "ALLOW_PRIVATE_URLS": "true", "BATCH_SIZE": "2",
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
    }  # fmt: skip
    for uuid in MESSAGES:
        message = {"uuid": uuid, "image_url": picture_url}
        queue.send_message(QueueUrl=url, MessageBody=json.dumps(message))
    return Stack(tmp_path, settings, "servers")


def upload_all(stack: Stack) -> None:
    """Sends the uploads, each so large that it takes a while."""
    with Image.open(BUNDLED) as picture:
        large = saved(picture.convert("RGB").resize((2000, 1500)), "JPEG", quality=80)
    for uuid in UPLOADS:
        answer = httpx.post(
            f"{stack.base_url}/segment",
            content=large,
            params={"uuid": uuid},
            headers={"prefer": "respond-async"},
            timeout=30,
        )
        assert answer.status_code == 202, answer.text


def put_older_store(store: Store, picture_url: str) -> None:
    """The files of an older version, whose jobs' picture is at a host that exists."""
    for key, content in read_older_store().items():
        store.put(key, content.replace(b"https://pictures.example/a.png", picture_url.encode()))
    store.delete(keys.FORMAT)  # which that version did not know


def test_what_was_in_flight_and_in_the_outbox_at_the_stop_is_done_after_the_start(
    stack: Stack, server: AppServerDouble, picture_url: str
) -> None:
    store = open_store(make_settings(stack.folder))
    repository = JobRepository(store)
    stack.start()
    stack.wait_for(lambda: repository.outbox.uuids() == set(MESSAGES), "results to tell")
    upload_all(stack)
    stack.wait_for(lambda: len(repository.claims.inflight()) > 2, "jobs in flight")
    assert stack.stop() == 0, stack.output()

    assert repository.claims.inflight()
    assert waiting_uuids(repository, 100)
    assert repository.outbox.uuids() == set(MESSAGES)
    put_older_store(store, picture_url)
    failed_tries = len(server.told)
    server.answers = [say(200)]

    stack.start()
    try:
        stack.wait_for(
            lambda: {repository.status(uuid) for uuid in UNFINISHED} == {JobStatus.COMPLETED},
            "completion of every job",
        )
        stack.wait_for(
            lambda: set(server.uuids()[failed_tries:]) == STATUSES.keys(), "the app server told"
        )
    finally:
        assert stack.stop() == 0, stack.output()
    assert json.loads(store.get(keys.FORMAT))["format"] == FORMAT
    assert [repository.claims.inflight(), waiting_uuids(repository, 1)] == [[], []]
    assert len(store.list("parked/")) == PARKED_BY_OLDER_VERSION
    told = {each.uuid: each.document["status"] for each in server.told[failed_tries:]}
    assert told == STATUSES
