"""The pictures of jobs, as long as they are kept, for further jobs on them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from seg_pipeline.domain import Job
from seg_pipeline.errors import ObjectNotFound, PictureNotKept
from seg_pipeline.jobs.stored_jobs import read_job
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import OPTIONAL, load

ONE_PICTURE = "send one of a picture, an image_url and an image_of."
"""What is said of a request with two of them."""


@dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """`source.json`: what the picture's bytes are. `notes` name the tolerated faults."""

    extension: str
    format: str = ""
    width: int = 0
    height: int = 0
    bytes: int = 0
    sha256: str = ""
    notes: Annotated[str | None, OPTIONAL] = None


def kept_picture(store: Store, uuid: str) -> Iterator[bytes]:
    """A job's picture as received, in pieces. Raises PictureNotKept at the call."""
    job = read_job(store, uuid)
    extension = _extension(store, job) if job else None
    if extension is None:
        raise PictureNotKept(uuid)
    try:
        return store.stream(keys.source(uuid, extension))
    except ObjectNotFound:
        raise PictureNotKept(uuid) from None


def _extension(store: Store, job: Job) -> str | None:
    """How the picture's file ends; None while the picture is not in the store."""
    if job.source_extension is not None:
        return job.source_extension
    info = load(store, SourceInfo, keys.source_info(job.uuid))
    return info.extension if info else None
