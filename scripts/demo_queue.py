"""The app server's whole way on one machine: a message in a queue, a picture in a bucket, and the
PATCH that comes.

    make demo-queue

Starts stand-ins for SQS and S3 and a tiny app server, starts the service on them, sends one job,
prints what the app server is told, and stops everything.
"""

import argparse
import json
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

from seg_pipeline.local.sample import BUNDLED, abridged
from seg_pipeline.local.stack import free_port

REGION = "us-east-1"
BUCKET = "pictures"
API_KEY = "the app server's key"
KEYS = {"aws_access_key_id": "demo", "aws_secret_access_key": "demo"}
UP_WITHIN_SECONDS = 180.0
TOLD_WITHIN_SECONDS = 120.0


def main() -> None:
    """Runs the demonstration; exit code 1 and a sentence if the PATCH does not come."""
    arguments = _arguments()
    model = arguments.model
    with (
        tempfile.TemporaryDirectory(prefix="demo-queue-") as folder,
        stand_ins() as aws,
        app_server() as (url, told),
    ):
        queue_url = _fill(aws)
        with service(Path(folder), model, aws, queue_url, url) as dagster_url:
            began = time.monotonic()
            message = {"uuid": "abc123", "image_url": f"s3://{BUCKET}/sample.jpg"}
            _client("sqs", aws).send_message(QueueUrl=queue_url, MessageBody=json.dumps(message))
            print(f"Sent to the queue:\n{json.dumps(message, indent=2)}\n", flush=True)
            path, key, document = _await(told)
            print(f"PATCH {path} (x-api-key: {key}) after {time.monotonic() - began:.1f} s:")
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


@contextmanager
def stand_ins() -> Iterator[str]:
    """SQS and S3 as moto speaks them, over HTTP; the address of both."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every request otherwise
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def _client(service_name: str, endpoint: str) -> Any:
    return boto3.client(service_name, endpoint_url=endpoint, region_name=REGION, **KEYS)


def _fill(aws: str) -> str:
    """A bucket with the sample and an empty queue; the queue's address."""
    _client("s3", aws).create_bucket(Bucket=BUCKET)
    _client("s3", aws).put_object(Bucket=BUCKET, Key="sample.jpg", Body=BUNDLED.read_bytes())
    return str(_client("sqs", aws).create_queue(QueueName="jobs")["QueueUrl"])


Told = tuple[str, str, dict[str, Any]]


@contextmanager
def app_server() -> Iterator[tuple[str, "queue.Queue[Told]"]]:
    """An app server that notes each PATCH: path, key and document."""
    told: queue.Queue[Told] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_PATCH(self) -> None:
            document = json.loads(self.rfile.read(int(self.headers["content-length"])))
            told.put((self.path, self.headers["x-api-key"], document))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", told
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def service(
    folder: Path, model: str, aws: str, queue_url: str, app_server_url: str
) -> Iterator[str]:
    """The product, started as `make run` does, with its files in the bucket; the address of
    Dagster's pages."""
    settings = {
        "DATA_DIR": str(folder / "data"), "API_PORT": str(free_port()),
        "DAGSTER_PORT": str(free_port()),
        "MODEL": model, "QUEUE_MODEL": model, "INBOX_POLL_SECONDS": "0.1",
        "S3_BUCKET": BUCKET, "S3_ENDPOINT_URL": aws, "S3_ACCESS_KEY": "demo",
        "S3_SECRET_KEY": "demo",
        "S3_SOURCES": f"{BUCKET}/sample.jpg",
        "SQS_QUEUE_URL": queue_url, "SQS_ENDPOINT_URL": aws, "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": "demo",
        "APP_SERVER_URL": app_server_url, "APP_SERVER_API_KEY": API_KEY,
    }  # fmt: skip
    command = [sys.executable, "-m", "seg_pipeline.cli", "up", "--no-sample"]
    output = folder / "output"
    with output.open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=log, stderr=log)
        try:
            _wait_until_up(process, output)
            yield f"http://127.0.0.1:{settings['DAGSTER_PORT']}"
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait_until_up(process: "subprocess.Popen[bytes]", output: Path) -> None:
    print("Starting the service on stand-ins for SQS and S3 ...", flush=True)
    deadline = time.monotonic() + UP_WITHIN_SECONDS
    while "Everything is up" not in output.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"demo-queue: the service did not come up:\n{output.read_text()}")
        time.sleep(0.2)


def _await(told: "queue.Queue[Told]") -> Told:
    try:
        return told.get(timeout=TOLD_WITHIN_SECONDS)
    except queue.Empty:
        raise SystemExit(f"demo-queue: no PATCH within {TOLD_WITHIN_SECONDS:g} s.") from None


if __name__ == "__main__":
    main()
