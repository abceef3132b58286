"""The app server's jobs through the whole service: a message in, a PATCH out, and what lies between
in Dagster."""

import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import pytest

from seg_pipeline.adapters.app_server import verify
from seg_pipeline.local.sample import BUNDLED, ask
from seg_pipeline_tests.app_servers import AppServerDouble, Told, app_server, say
from seg_pipeline_tests.aws import REGION
from seg_pipeline_tests.running_stack import Stack
from seg_pipeline_tests.serving import serving

SECRET = "a secret"
ANY_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}

pytestmark = pytest.mark.slow


@dataclass
class World:
    """The service, the queue before it, the app server behind it, and a server with pictures."""

    stack: Stack
    queue: Any
    queue_url: str
    server: AppServerDouble
    pictures: str

    def send(self, uuid: str, path: str = "/sample.jpg", **asked: Any) -> None:
        body = {"uuid": uuid, "image_url": self.pictures + path, **asked}
        self.send_text(json.dumps(body))

    def send_text(self, body: str) -> None:
        self.queue.send_message(QueueUrl=self.queue_url, MessageBody=body)

    def told(self, uuid: str) -> Told:
        """The PATCH about the job, once it has come."""
        self.stack.wait_for(lambda: uuid in self.server.uuids(), f"a PATCH about {uuid}")
        return next(told for told in self.server.told if told.uuid == uuid)

    def materialized(self, asset: str) -> list[str]:
        """The partitions of an asset that are green in Dagster."""
        query = """query($key: AssetKeyInput!) {
            assetNodeOrError(assetKey: $key) { ... on AssetNode { assetPartitionStatuses {
                ... on DefaultPartitionStatuses { materializedPartitions } } } } }"""
        node = self.stack.graphql(query, key={"path": [asset]})["assetNodeOrError"]
        partitions: list[str] = node["assetPartitionStatuses"]["materializedPartitions"]
        return partitions


def pictures(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """A server with one picture, one page, and nothing else."""
    pages = {"/sample.jpg": BUNDLED.read_bytes(), "/page": b"<html>hello</html>"}
    body = pages.get(environ["PATH_INFO"])
    start_response(
        "200 OK" if body else "404 Not Found", [("Content-Length", str(len(body or b"")))]
    )
    return [body or b""]


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, aws_endpoint: str, profile: str
) -> Iterator[World]:
    names = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": REGION}
    queue = boto3.client("sqs", endpoint_url=aws_endpoint, **names)
    url = queue.create_queue(QueueName=f"queue-{secrets.token_hex(6)}")["QueueUrl"]
    with app_server() as server, serving(pictures) as address:
        settings = {
            "SQS_QUEUE_URL": url, "SQS_ENDPOINT_URL": aws_endpoint, "QUEUE_MODEL": "demo-yolo",
            "APP_SERVER_URL": server.url, "APP_SERVER_API_KEY": "key-1", "CALLBACK_SECRET": SECRET,
            "ALLOW_PRIVATE_URLS": "true",
        }  # fmt: skip
        with Stack(tmp_path_factory.mktemp("queue"), {**settings, **ANY_KEYS}, profile) as stack:
            yield World(stack, queue, url, server, address)


def test_a_message_becomes_a_signed_patch_whose_masks_can_be_fetched(world: World) -> None:
    world.send("first")
    told = world.told("first")
    document = told.document
    assert (document["uuid"], document["status"]) == ("first", "completed")
    assert len(document["segments"]) > 0
    assert told.headers["x-api-key"] == "key-1"
    assert verify(SECRET, told.headers, told.body, float(told.headers["x-signature-timestamp"]))
    mask = ask("GET", document["segments"][0]["mask_url"])
    assert (mask.status, mask.headers["content-type"]) == (200, "image/png")


def test_a_message_may_set_parameters_and_have_run_lengths_in_its_patch(world: World) -> None:
    world.send("asking", parameters={"confidence": 0.5}, rle=True)
    segments = world.told("asking").document["segments"]
    assert segments
    assert all(segment["rle"]["counts"] for segment in segments)
    assert ask("GET", f"{world.stack.base_url}/jobs/asking").body["parameters"] == {
        "confidence": 0.5
    }


def test_a_prompt_on_the_picture_of_an_earlier_message_is_told_too(world: World) -> None:
    world.send("pictured")
    world.told("pictured")
    asked = {"model": "demo-sam2", "parameters": {"points": [[240, 268, 1]]}}
    world.send_text(json.dumps({"uuid": "pointed", "image_of": "pictured", **asked}))
    document = world.told("pointed").document
    assert (document["status"], len(document["segments"])) == ("completed", 1)


def test_dagster_shows_every_step_of_it_and_the_partition_turns_green(world: World) -> None:
    world.send("shown")
    world.told("shown")
    world.stack.wait_for(lambda: "shown" in world.materialized("callback"), "a green partition")
    assert all(
        "shown" in world.materialized(asset)
        for asset in ("source_image", "segments", "cutouts", "result")
    )


def test_a_picture_that_cannot_be_had_is_told_as_a_failure(world: World) -> None:
    world.send("not-there", "/nothing.jpg")
    world.send("a-page", "/page")
    codes = {uuid: world.told(uuid).document["error"]["code"] for uuid in ("not-there", "a-page")}
    assert codes == {"not-there": "fetch_rejected", "a-page": "not_an_image"}
    world.stack.wait_for(lambda: "a-page" in world.materialized("callback"), "a green partition")
    assert "a-page" not in world.materialized("result")


def test_messages_that_are_no_jobs_are_parked_and_the_others_go_on(world: World) -> None:
    world.send_text("hello")
    world.send("../x")
    world.send("last")
    world.told("last")
    notes = world.stack.data_dir / "state" / "parked"
    world.stack.wait_for(
        lambda: notes.exists() and len([*notes.iterdir()]) == 2, "two parked messages"
    )


def test_a_refused_callback_is_replayed_by_the_api(world: World) -> None:
    world.server.answers[:] = [say(404), say(200)]
    world.send("refused")
    world.told("refused")
    url = f"{world.stack.base_url}/jobs/refused/callback"
    world.stack.wait_for(
        (world.stack.data_dir / "state/parked/callback-refused").exists, "it being parked"
    )
    assert "refused" not in world.materialized("callback")
    assert ask("POST", url).status == 202
    world.stack.wait_for(lambda: "refused" in world.materialized("callback"), "a green partition")
    assert world.server.uuids().count("refused") == 2
