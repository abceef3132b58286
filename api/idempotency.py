"""The header `Idempotency-Key`, after the draft of the IETF's HTTP API working group.

<https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>
"""

import hashlib
import json
import re
from dataclasses import dataclass, replace

from fastapi import Request

from api.schemas import JobOptions
from seg_pipeline.domain import Job
from seg_pipeline.errors import InvalidRequest
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.jobs.stored_jobs import read_job

_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
"""A string of RFC 9651, section 3.3.3."""

_BARE = re.compile(r"[!#-+\--\[\]-~]+")
"""Without quotes, backslashes and commas, which belong to other values than one string."""

LONGEST = 255
"""Characters of a key."""


@dataclass(frozen=True)
class IdempotencyKey:
    """A client's key. Each of API_KEYS has keys of its own."""

    client: str
    text: str

    @property
    def name(self) -> str:
        """The key's name in the store."""
        return hashlib.sha256(f"{self.client}\n{self.text}".encode()).hexdigest()


def read_idempotency_key(request: Request) -> IdempotencyKey | None:
    """The request's key, if it has one. Raises InvalidRequest."""
    values = request.headers.getlist("idempotency-key")
    if not values:
        return None
    text = _text(values[0].strip()) if len(values) == 1 else ""
    if not 1 <= len(text) <= LONGEST:
        raise InvalidRequest(
            f"a request has at most one Idempotency-Key, of 1 to {LONGEST} printable characters"
            " of ASCII."
        )
    return IdempotencyKey(getattr(request.state, "client", ""), text)


def job_of_key(
    repository: JobRepository, key: IdempotencyKey, options: JobOptions, job: Job
) -> Job:
    """The job that the key stands for, which is this one if the key is new.

    Raises IdempotencyKeyReused. What is compared is what the client sent, and no default: a setting
    that changes makes no other request of it.
    """
    uuid = repository.idempotency.uuid_of(key.name, _asked(options, job), job.uuid)
    if uuid == job.uuid:
        return job
    return read_job(repository.store, uuid) or replace(job, uuid=uuid)


def _text(value: str) -> str:
    """The key in the header's value; nothing if it cannot be read."""
    if quoted := _STRING.fullmatch(value):
        return re.sub(r"\\(.)", r"\1", quoted[1])
    return value if _BARE.fullmatch(value) else ""


def _asked(options: JobOptions, job: Job) -> str:
    """The hash of what was sent."""
    document = options.model_dump(mode="json", exclude_none=True)
    text = json.dumps([document, job.source_sha256], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
