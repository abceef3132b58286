"""Makes the bucket and the queues that docker-compose-dev.yml names, at the stand-in; what is there
stays."""

import contextlib
import json

import boto3

from seg_pipeline.settings import Settings, get_settings

MAX_RECEIVES = 5


def main() -> None:
    """Makes all of it."""
    settings = get_settings()
    make_bucket(settings)
    make_queues(settings)


def make_bucket(settings: Settings) -> None:
    """The bucket S3_BUCKET."""
    client = boto3.client(
        "s3", region_name=settings.aws_region, endpoint_url=settings.s3_endpoint_url
    )
    with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=settings.s3_bucket)


def make_queues(settings: Settings) -> None:
    """The queue that SQS_QUEUE_URL ends with, and `<name>-dead` for messages that come again and
    again."""
    client = boto3.client(
        "sqs", region_name=settings.aws_region, endpoint_url=settings.sqs_endpoint_url
    )
    name = (settings.sqs_queue_url or "").rpartition("/")[2]
    dead_url = client.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
    dead = client.get_queue_attributes(QueueUrl=dead_url, AttributeNames=["QueueArn"])[
        "Attributes"
    ]["QueueArn"]
    redrive = json.dumps({"deadLetterTargetArn": dead, "maxReceiveCount": MAX_RECEIVES})
    client.create_queue(QueueName=name, Attributes={"RedrivePolicy": redrive})


if __name__ == "__main__":
    main()
