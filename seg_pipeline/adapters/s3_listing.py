"""Lists the objects of a bucket below a prefix that a client names, by the operator's rules."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from seg_pipeline.adapters.image_fetch import (
    S3Object,
    check_s3_allowed,
    parse_s3_prefix,
    s3_errors,
)
from seg_pipeline.adapters.s3_client import make_s3_client
from seg_pipeline.errors import InvalidRequest, UrlRefused
from seg_pipeline.settings import Settings
from seg_pipeline.store import keys

MOST_LOOKED_AT = 100_000
"""Objects that a listing looks at; a prefix of more is refused."""

CONNECT_SECONDS, READ_SECONDS = 5, 20


@dataclass(frozen=True)
class FoundObject:
    """An object below a prefix."""

    object: S3Object

    @property
    def is_picture_by_name(self) -> bool:
        """Whether its extension is a picture's, or it has none."""
        name = self.object.key.rpartition("/")[2]
        extension = name.rpartition(".")[2].lower()
        return "." not in name or extension in keys.PICTURE_EXTENSIONS


def objects_below(prefix: str, settings: Settings) -> Iterator[FoundObject]:
    """The objects whose keys begin with `s3://bucket/prefix`, by key, without empty ones.

    What a job could not name is not among them. Raises InvalidUrl or UrlRefused for the prefix,
    FetchRejected or FetchUnavailable for the bucket, and InvalidRequest for very many objects.
    """
    below = parse_s3_prefix(prefix)
    check_s3_allowed(below, settings)
    for number, entry in enumerate(_entries(below, settings)):
        if number >= MOST_LOOKED_AT:
            raise InvalidRequest(
                f"{below.url} has more than {MOST_LOOKED_AT} objects; name a longer prefix."
            )
        found = S3Object(below.bucket, entry["Key"])
        if entry["Size"] and not found.key.endswith("/") and _is_allowed(found, settings):
            yield FoundObject(found)


def _is_allowed(found: S3Object, settings: Settings) -> bool:
    try:
        check_s3_allowed(found, settings)
    except UrlRefused:
        return False
    return True


def _entries(below: S3Object, settings: Settings) -> Iterator[dict[str, Any]]:
    client = make_s3_client(
        settings,
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"total_max_attempts": 2},
    )
    with closing(client), s3_errors(below.url, "listed", "a list"):
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=below.bucket, Prefix=below.key
        )
        for page in pages:
            yield from page.get("Contents", ())
