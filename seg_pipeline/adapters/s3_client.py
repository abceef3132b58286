"""boto3's client for S3: for foreign buckets and for signed links, which obstore does not serve."""

from typing import Any

from seg_pipeline.settings import Settings


def make_s3_client(settings: Settings, **options: Any) -> Any:
    """A client with the store's endpoint and credentials. Without these, boto3's own chain applies.

    The options are botocore's: timeouts, retries, connections.
    """
    import boto3
    from botocore.config import Config

    access_key, secret_key = settings.s3_access_key, settings.s3_secret_key
    return boto3.Session(profile_name=settings.aws_profile, region_name=settings.aws_region).client(
        "s3",
        endpoint_url=settings.s3_endpoint_url,
        aws_access_key_id=access_key.get_secret_value() if access_key else None,
        aws_secret_access_key=secret_key.get_secret_value() if secret_key else None,
        config=Config(**options),
    )


def answered_status(error: Any) -> int:
    """The HTTP status that a botocore `ClientError` tells of; 500 if it tells of none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))
