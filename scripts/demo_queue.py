"""The app server's whole way on one machine: a message in a queue, a picture in a bucket, and the
PATCH that comes.

    make demo-queue

Starts stand-ins for SQS and S3 and a tiny app server, starts the service on them, sends one job,
prints what the app server is told, and stops everything.
"""

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3

from seg_pipeline.local.sample import BUNDLED, abridged
from seg_pipeline.settings import Settings
from seg_pipeline_tests.app_servers import AppServerDouble, Told, app_server, say
from seg_pipeline_tests.aws import REGION, aws_server
from seg_pipeline_tests.running_stack import Stack, StackFailed

BUCKET = "pictures"
API_KEY = "the app server's key"
KEYS = {"aws_access_key_id": "demo", "aws_secret_access_key": "demo"}
TOLD_WITHIN_SECONDS = 120.0


def main() -> None:
    """Runs the demonstration; exit code 1 and a sentence if the PATCH does not come."""
    arguments = _arguments()
    model = arguments.model
    with (
        tempfile.TemporaryDirectory(prefix="demo-queue-") as folder,
        aws_server() as aws,
        app_server(say(204, b"")) as server,
    ):
        queue_url = _fill(aws)
        with service(Path(folder), model, aws, queue_url, server.url) as dagster_url:
            began = time.monotonic()
            message = {"uuid": "abc123", "image_url": f"s3://{BUCKET}/sample.jpg"}
            _client("sqs", aws).send_message(QueueUrl=queue_url, MessageBody=json.dumps(message))
            print(f"Sent to the queue:\n{json.dumps(message, indent=2)}\n", flush=True)
            told = _await(server)
            seconds = time.monotonic() - began
            document, key = told.document, told.headers["x-api-key"]
            print(f"PATCH {told.path} (x-api-key: {key}) after {seconds:.1f} s:")
            print(json.dumps(abridged(document), indent=2), flush=True)
            if arguments.stay:
                _stay(dagster_url, message["uuid"])
    if document["status"] != "completed" or not document["segments"]:
        raise SystemExit("demo-queue: the job did not end as it should.")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo-queue", description=__doc__)
    parser.add_argument("--model", default="demo-yolo", help="the model for jobs from the queue")
    parser.add_argument(
        "--stay",
        action="store_true",
        help="keep everything up until Ctrl-C, to look at the job's way",
    )
    return parser.parse_args()


def _stay(dagster_url: str, uuid: str) -> None:
    print(f"\nThe delivery: {dagster_url}/assets/callback?partition={uuid}&view=partitions")
    print(
        "What led to it:"
        f" {dagster_url}/assets/callback?view=lineage&lineageScope=upstream&lineageDepth=4"
    )
    with suppress(KeyboardInterrupt):
        print(
            "Ctrl-C stops everything.", flush=True
        )  # whoever reads it may press it before the next line
        threading.Event().wait()


def _client(service_name: str, endpoint: str) -> Any:
    return boto3.client(service_name, endpoint_url=endpoint, region_name=REGION, **KEYS)


def _fill(aws: str) -> str:
    """A bucket with the sample and an empty queue; the queue's address."""
    _client("s3", aws).create_bucket(Bucket=BUCKET)
    _client("s3", aws).put_object(Bucket=BUCKET, Key="sample.jpg", Body=BUNDLED.read_bytes())
    return str(_client("sqs", aws).create_queue(QueueName="jobs")["QueueUrl"])


@contextmanager
def service(
    folder: Path, model: str, aws: str, queue_url: str, app_server_url: str
) -> Iterator[str]:
    """The product with its files in the bucket; the address of Dagster's pages."""
    settings = {
        "DATA_DIR": str(folder / "data"),
        "MODEL": model, "QUEUE_MODEL": model, "INBOX_POLL_SECONDS": "0.1",
        "WEIGHTS_DIR": str(Settings().weights_dir.absolute()),
        "S3_BUCKET": BUCKET, "S3_ENDPOINT_URL": aws, "S3_ACCESS_KEY": "demo",
        "S3_SECRET_KEY": "demo",
        "S3_SOURCES": f"{BUCKET}/sample.jpg",
        "SQS_QUEUE_URL": queue_url, "SQS_ENDPOINT_URL": aws, "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": "demo",
        "APP_SERVER_URL": app_server_url, "APP_SERVER_API_KEY": API_KEY,
    }  # fmt: skip
    print("Starting the service on stand-ins for SQS and S3 ...", flush=True)
    try:
        with Stack(folder, settings, inherited=os.environ) as stack:
            yield stack.dagster_url
    except StackFailed as error:
        raise SystemExit(f"demo-queue: the service failed: {error}") from None


def _await(server: AppServerDouble) -> Told:
    """The first PATCH that the app server gets."""
    give_up_at = time.monotonic() + TOLD_WITHIN_SECONDS
    while not server.told:
        if time.monotonic() > give_up_at:
            raise SystemExit(f"demo-queue: no PATCH within {TOLD_WITHIN_SECONDS:g} s.")
        time.sleep(0.01)
    return server.told[0]


if __name__ == "__main__":
    main()
