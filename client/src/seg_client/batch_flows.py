"""What the client does with batches, without doing it; see `flows`."""

import json
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias, TypedDict
from urllib.parse import quote
from uuid import uuid4

import httpx

from seg_client.errors import WaitTimeout
from seg_client.flows import Flow, Pause, Send, checked, deleted, document, exchange
from seg_client.retries import Deadline
from seg_client.uploads import size_of

Addresses: TypeAlias = "Iterable[str | Mapping[str, str]]"
Source: TypeAlias = "Addresses | str | PathLike[str]"
"""Addresses, each a text or `{"image_url": …, "name": …}`; `s3://bucket/prefix`; or the path of a
ZIP."""

ENDED = ("completed", "cancelled")
PAGE = 1000

_FIRST_POLL_SECONDS = 0.2
_LONGEST_POLL_SECONDS = 5.0


class BatchOptions(TypedDict, total=False):
    """How to segment all pictures of a batch. What is left out is as the service is configured."""

    uuid: str | None
    model: str | None
    resize: int | None
    parameters: Mapping[str, Any] | None
    rle: bool | None
    ttl_seconds: int | None
    callback: bool | None
    webhook: str | None


def create(source: Source, options: BatchOptions, retry_seconds: float) -> Flow[str]:
    """The uuid of the accepted batch. Raises ApiError or PictureUnreadable.

    It has a uuid before it is sent, so that a request that is sent again is the same batch.
    """
    named: BatchOptions = {**options, "uuid": options.get("uuid") or str(uuid4())}
    answer = yield from exchange(_request(source, named), retry_seconds)
    return str(document(answer).get("uuid", named["uuid"]))


def batch_of(uuid: str, retry_seconds: float) -> Flow[dict[str, Any]]:
    """The batch as it stands."""
    return document((yield from exchange(Send("GET", batch_path(uuid)), retry_seconds)))


def wait(uuid: str, deadline: Deadline, retry_seconds: float) -> Flow[dict[str, Any]]:
    """The batch once it has ended. Raises WaitTimeout."""
    pause = _FIRST_POLL_SECONDS
    while True:
        batch = yield from batch_of(uuid, retry_seconds)
        if batch.get("status") in ENDED:
            return batch
        if deadline.left <= 0:
            raise WaitTimeout(uuid, deadline.seconds)
        yield Pause(min(pause, max(0.0, deadline.left)))
        pause = min(pause * 1.5, _LONGEST_POLL_SECONDS)


def jobs(uuid: str, status: str | None, retry_seconds: float) -> Flow[list[Any]]:
    """All pictures of the batch, or those with a status."""
    found: list[Any] = []
    params = {"limit": str(PAGE), **({"status": status} if status else {})}
    while True:
        send = Send("GET", f"{batch_path(uuid)}/jobs", params=params)
        page = document((yield from exchange(send, retry_seconds)))
        found += page.get("jobs", [])
        if not page.get("next"):
            return found
        params["after"] = str(page["next"])


def export(uuid: str, retry_seconds: float) -> Flow[httpx.Response]:
    """COCO's document of all pictures that completed."""
    send = Send("GET", f"{batch_path(uuid)}/export", params={"format": "coco"})
    return checked((yield from exchange(send, retry_seconds)))


def delete(uuid: str, retry_seconds: float) -> Flow[bool]:
    """Deletes a batch that has ended; False if it has not, and is only being cancelled."""
    return (yield from deleted(batch_path(uuid), retry_seconds))


def batch_path(uuid: str) -> str:
    """The path of a batch below the service's address."""
    return f"/batches/{quote(uuid, safe='')}"


def _request(source: Source, options: BatchOptions) -> Send:
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(source, str) and source.startswith("s3://"):
        return Send("POST", "/batches", json={"prefix": source, **given})
    if isinstance(source, str | PathLike):
        path = Path(source)
        headers = {"content-type": "application/zip", "content-length": str(size_of(path))}
        return Send("POST", "/batches", _query(given), headers, content=path)
    return Send("POST", "/batches", json={"image_urls": [*source], **given})


def _query(options: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in options.items()
    }
