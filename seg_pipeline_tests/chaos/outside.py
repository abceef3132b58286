"""The world around the service in a trial: AWS, a host of pictures and an app server, each behind a
gate."""

import secrets
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import boto3

from seg_pipeline.local.sample import BUNDLED
from seg_pipeline_tests.app_servers import AppServerDouble, app_server
from seg_pipeline_tests.aws import REGION, aws_server
from seg_pipeline_tests.chaos.gates import Gate
from seg_pipeline_tests.serving import serving

KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": REGION}


@dataclass(frozen=True)
class Outside:
    """The stand-ins, whose own addresses tests use, and the gates, whose addresses the service is
    given."""

    aws_url: str
    queue_url: str
    bucket: str
    app_server: AppServerDouble
    gates: dict[str, Gate]

    def send(self, body: str) -> None:
        """Puts a message into the queue, past the gate: it is the service that is cut off, not its
        clients."""
        with _client("sqs", self.aws_url) as sqs:
            sqs.send_message(QueueUrl=self.queue_url, MessageBody=body)

    def settings(self, with_bucket: bool) -> dict[str, str]:
        """What leads the service here."""
        aws = self.gates["aws"].url
        queue = {
            "SQS_QUEUE_URL": self.queue_url,
            "SQS_ENDPOINT_URL": aws,
            "APP_SERVER_URL": self.gates["app server"].url,
            "APP_SERVER_API_KEY": "key",
            "ALLOW_PRIVATE_URLS": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
        return queue | (self.bucket_settings(aws) if with_bucket else {})

    def bucket_settings(self, endpoint: str) -> dict[str, str]:
        """The bucket, reached at an endpoint."""
        keys = {"S3_ACCESS_KEY": "test", "S3_SECRET_KEY": "test"}
        return {
            "S3_BUCKET": self.bucket,
            "S3_ENDPOINT_URL": endpoint,
            "INBOX_POLL_SECONDS": "0.2",
            **keys,
        }


@contextmanager
def outside() -> Iterator[Outside]:
    """Everything around the service, on free ports of the loopback, while the block runs."""
    with aws_server() as aws_url, app_server() as told, serving(_pictures) as pictures_url:
        gates = {
            "aws": Gate(_port(aws_url)),
            "app server": Gate(_port(told.url)),
            "image host": Gate(_port(pictures_url)),
        }
        bucket, queue_url = _fill(aws_url)
        with gates["aws"], gates["app server"], gates["image host"]:
            yield Outside(aws_url, queue_url, bucket, told, gates)


def _fill(aws_url: str) -> tuple[str, str]:
    name = f"chaos-{secrets.token_hex(6)}"
    with _client("s3", aws_url) as s3, _client("sqs", aws_url) as sqs:
        s3.create_bucket(Bucket=name)
        queue = sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "10"})
    return name, str(queue["QueueUrl"])


def _client(service: str, url: str) -> closing[Any]:
    return closing(boto3.client(service, endpoint_url=url, **KEYS))


def _pictures(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Any address has the bundled picture."""
    body = BUNDLED.read_bytes()
    start_response("200 OK", [("Content-Type", "image/jpeg"), ("Content-Length", str(len(body)))])
    return [body]


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port
    return port
