"""What the client does, without doing it: generators that yield requests and pauses.

Both clients run the same flows, one by blocking and one by awaiting.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
from pydantic import BaseModel, ValidationError

from seg_client.answers import Failure, JobAnswer
from seg_client.errors import (
    ApiError,
    BatchNotFound,
    ConnectionFailed,
    JobNotFound,
    UnexpectedAnswer,
    WaitTimeout,
    api_error,
)
from seg_client.options import JobOptions, as_json, as_query
from seg_client.retries import Deadline, passes, pause_seconds

T = TypeVar("T")
AnswerT = TypeVar("AnswerT", bound=BaseModel)


@dataclass(frozen=True)
class Send:
    """Send this request; the answer comes back, or httpx's TransportError is thrown in.

    A path stands for the bytes of that file.
    """

    method: str
    url: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | Path | None = None
    json: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Pause:
    """Wait."""

    seconds: float


Came: TypeAlias = httpx.Response | httpx.TransportError | None
"""What came of a step: the answer, why there is none, or nothing after a pause."""

Flow: TypeAlias = Generator[Send | Pause, httpx.Response | None, T]

NO_MASKS_FOUND = "No masks found"
FINISHED = ("completed", "failed")

_LONGEST_WAIT_SECONDS = 30
"""How long one request waits for its result; then it is asked for again and again."""

_FIRST_POLL_SECONDS = 0.05
_LONGEST_POLL_SECONDS = 2.0


def advance(flow: Flow[Any], came: Came) -> Send | Pause:
    """The flow's next step, the first one with None. Raises StopIteration at its end."""
    return flow.throw(came) if isinstance(came, Exception) else flow.send(came)


def exchange(send: Send, retry_seconds: float) -> Flow[httpx.Response]:
    """The answer, be it a refusal that stays.

    What passes is tried again until `retry_seconds` are used up. Raises ConnectionFailed, or the
    ApiError of the last answer if the next attempt would be too late.
    """
    deadline, attempt = Deadline(retry_seconds), 0
    while True:
        answer, broken = None, None
        try:
            answer = yield send
        except httpx.TransportError as error:
            broken = error
        if answer is not None and (answer.is_success or not is_passing(answer)):
            return answer
        pause = pause_seconds(attempt, answer)
        if pause > deadline.left:
            raise _given_up(send, answer, broken) from broken
        yield Pause(pause)
        attempt += 1


def segment(
    picture: str | bytes, options: JobOptions, timeout: float, retry_seconds: float
) -> Flow[dict[str, Any]]:
    """The completed job of a picture. Raises ApiError or WaitTimeout.

    The job has a uuid before it is sent, so that a request that is sent again is the same job.
    """
    deadline, named = Deadline(timeout), with_uuid(options)
    uuid = str(named["uuid"])
    answer = yield from _post(picture, named, min(timeout, _LONGEST_WAIT_SECONDS), retry_seconds)
    if _is_nothing_found(answer):
        return (yield from job_of(uuid, retry_seconds))
    job = document(answer)
    if job.get("status") not in FINISHED:
        return (yield from wait(uuid, deadline, retry_seconds))
    return completed(job)


def submit(picture: str | bytes, options: JobOptions, retry_seconds: float) -> Flow[str]:
    """The uuid of the accepted job."""
    named = with_uuid(options)
    answer = yield from _post(picture, named, 0, retry_seconds)
    return str(document(answer).get("uuid", named["uuid"]))


def wait(uuid: str, deadline: Deadline, retry_seconds: float) -> Flow[dict[str, Any]]:
    """The completed job. Raises what it failed with, or WaitTimeout.

    Each request waits at the service. One that was answered sooner is followed by a pause.
    """
    pause = _FIRST_POLL_SECONDS
    while True:
        asked = Deadline(max(0.0, min(deadline.left, _LONGEST_WAIT_SECONDS)))
        job = yield from job_of(uuid, retry_seconds, asked.seconds)
        if job.get("status") in FINISHED:
            return completed(job)
        if deadline.left <= 0:
            raise WaitTimeout(uuid, deadline.seconds)
        if asked.left > asked.seconds / 2:
            yield Pause(min(pause, max(0.0, deadline.left)))
            pause = min(pause * 1.5, _LONGEST_POLL_SECONDS)
        else:
            pause = _FIRST_POLL_SECONDS


def job_of(uuid: str, retry_seconds: float, wait_seconds: float = 0) -> Flow[dict[str, Any]]:
    """The job as it stands, at its end or when so many seconds have passed."""
    send = Send("GET", job_path(uuid), headers=_preference(wait_seconds))
    return document((yield from exchange(send, retry_seconds)))


def delete(uuid: str, retry_seconds: float) -> Flow[bool]:
    """Deletes the job; False if it is only being cancelled, and can be deleted in seconds."""
    return (yield from deleted(job_path(uuid), retry_seconds))


def deleted(path: str, retry_seconds: float) -> Flow[bool]:
    """Deletes what is at the path; False if it is only being cancelled. It may be gone already."""
    try:
        answer = checked((yield from exchange(Send("DELETE", path), retry_seconds)))
    except (JobNotFound, BatchNotFound):
        return True
    return answer.status_code != 202


def retry(uuid: str, retry_seconds: float) -> Flow[None]:
    """Has a failed job run again."""
    checked((yield from exchange(Send("POST", f"{job_path(uuid)}/retry"), retry_seconds)))


def cancel(uuid: str, retry_seconds: float) -> Flow[bool]:
    """Cancels the job; False if a worker has it, and stops in seconds."""
    send = Send("POST", f"{job_path(uuid)}/cancel")
    return checked((yield from exchange(send, retry_seconds))).status_code != 202


def export(
    uuid: str, format: str, retry_seconds: float, tolerance: float | None = None
) -> Flow[httpx.Response]:
    """A completed job's segments in another format."""
    params: dict[str, str] = {"format": format}
    if tolerance is not None:
        params["tolerance"] = str(tolerance)
    send = Send("GET", f"{job_path(uuid)}/export", params=params)
    return checked((yield from exchange(send, retry_seconds)))


def file(url: str, retry_seconds: float) -> Flow[bytes]:
    """A file's bytes."""
    return checked((yield from exchange(Send("GET", url), retry_seconds))).content


def with_uuid(options: JobOptions) -> JobOptions:
    """The options with a uuid, a new one if they have none."""
    return {**options, "uuid": options.get("uuid") or str(uuid4())}


def job_path(uuid: str) -> str:
    """The path of a job below the service's address."""
    return f"/jobs/{quote(uuid, safe='')}"


def completed(job: dict[str, Any]) -> dict[str, Any]:
    """The job, if it has completed. Raises what it failed with."""
    if job.get("status") == "failed":
        reason = read(JobAnswer, job).error
        if reason is None:
            raise UnexpectedAnswer(f"job {job.get('uuid')} has failed without a reason.")
        raise api_error(reason.message, reason.code, str(job.get("uuid")))
    return job


def document(answer: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer that is no refusal."""
    body = _json(checked(answer))
    if not isinstance(body, dict):
        raise UnexpectedAnswer(f"{answer.url} answered no JSON object.")
    return body


def checked(answer: httpx.Response) -> httpx.Response:
    """The answer, if it is no refusal. Raises ApiError or UnexpectedAnswer."""
    if answer.is_success:
        return answer
    raise _refusal(answer)


def read(kind: type[AnswerT], body: object) -> AnswerT:
    """The body as a record. Raises UnexpectedAnswer."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UnexpectedAnswer(f"the answer's {place or 'body'}: {first['msg']}.") from error


def _post(
    picture: str | bytes, options: JobOptions, wait_seconds: float, retry_seconds: float
) -> Flow[httpx.Response]:
    if isinstance(picture, str):
        send = Send("POST", "/jobs", json={"image_url": picture, **as_json(options)})
    else:
        resize = options.get("resize")
        send = Send(
            "POST",
            "/segment" if resize is None else f"/segment/{resize}",
            params=as_query(options),
            headers={
                "content-type": "application/octet-stream",
                "prefer": f"wait={int(wait_seconds)}" if wait_seconds >= 1 else "respond-async",
            },
            content=picture,
        )
    return (yield from exchange(send, retry_seconds))


def _preference(wait_seconds: float) -> dict[str, str]:
    return {"prefer": f"wait={int(wait_seconds)}"} if wait_seconds >= 1 else {}


def is_passing(answer: httpx.Response) -> bool:
    """Whether the same request may be answered otherwise in a moment."""
    failure = _failure(answer)
    return passes(failure.code if failure else None, answer.status_code)


def _given_up(
    send: Send, answer: httpx.Response | None, broken: httpx.TransportError | None
) -> ApiError | ConnectionFailed | UnexpectedAnswer:
    if answer is not None:
        return _refusal(answer)
    reason = str(broken) or type(broken).__name__
    return ConnectionFailed(f"{send.method} {send.url} got no answer: {reason}.")


def _refusal(answer: httpx.Response) -> ApiError | UnexpectedAnswer:
    failure = _failure(answer)
    if failure is None:
        return UnexpectedAnswer(f"{answer.url} answered {answer.status_code} without a reason.")
    return api_error(failure.error, failure.code, failure.uuid, answer.status_code)


def _failure(answer: httpx.Response) -> Failure | None:
    try:
        return Failure.model_validate(_json(answer))
    except (ValidationError, UnexpectedAnswer):
        return None


def _is_nothing_found(answer: httpx.Response) -> bool:
    failure = _failure(answer) if answer.status_code == 400 else None
    return failure is not None and failure.code is None and failure.error == NO_MASKS_FOUND


def _json(answer: httpx.Response) -> object:
    try:
        body: object = answer.json()
    except ValueError as error:
        raise UnexpectedAnswer(f"{answer.url} answered no JSON.") from error
    return body
