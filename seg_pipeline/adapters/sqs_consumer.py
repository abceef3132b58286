"""Accepts the messages of an SQS queue as jobs. A message is deleted only once its job is stored.

    {"uuid": "abc123", "image_url": "https://…"}

`imageUrl` is read too, and `image_of`, an earlier job whose picture this one shall have. `model`,
`parameters`, `rle`, `resize`, `ttl_seconds` and `priority` are optional.

A message that comes twice is the same job. One that can never become a job is parked with the
reason, so that it does not come back for ever. It is parked in the store, and in the queue's
dead-letter queue if there is one.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from seg_pipeline.adapters.deadlines import DeadlinePassed, within
from seg_pipeline.adapters.image_fetch import check_image_url
from seg_pipeline.adapters.s3_client import answered_status
from seg_pipeline.domain import (
    Job,
    Priority,
    check_model,
    check_uuid,
    queue_uuid,
    resolved_model,
    whole_number,
)
from seg_pipeline.errors import (
    ImageError,
    InvalidParameter,
    InvalidPrompt,
    InvalidRequest,
    JobConflict,
    JobNotFound,
    PictureNotKept,
    QueueUnavailable,
    RequestError,
    SegPipelineError,
    StoreError,
)
from seg_pipeline.jobs.acceptance import job_of_bytes
from seg_pipeline.jobs.kept_pictures import ONE_PICTURE, kept_picture
from seg_pipeline.jobs.parked_notes import ParkedNote, park
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.jobs.stored_jobs import read_job
from seg_pipeline.settings import Settings
from seg_pipeline.store import Store, keys
from seg_pipeline.telemetry import metrics
from seg_pipeline.telemetry.logs import about

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 2**10
MAX_WAIT_SECONDS = 20
"""SQS' own limit to a long poll."""

ANSWER_SECONDS = 10.0
"""For any other request, and for the time that a long poll takes beyond its wait."""

_BATCH = 10
_REASON_CHARACTERS = 500
_AWS_QUEUE = re.compile(r"https://sqs\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?/")
_Message = dict[str, Any]
_WholeNumber = Annotated[int, BeforeValidator(whole_number)]


class _Body(BaseModel):
    """A message as the app server writes it. Other fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")

    uuid: str
    image_url: str | None = None
    imageUrl: str | None = None  # noqa: N815  the app server spells it so
    image_of: str | None = None
    model: str | None = None
    parameters: dict[str, Any] | None = None
    rle: bool | None = None
    resize: _WholeNumber | None = None
    ttl_seconds: _WholeNumber | None = None
    priority: Priority | None = None


@dataclass(frozen=True)
class JobMessage:
    """A job, and which of its fields the message left to the defaults.

    `picture` is the one of `image_of`.
    """

    job: Job
    left_open: frozenset[str] = frozenset()
    picture: bytes | None = None

    def beside(self, first: Job) -> Job:
        """The job to accept when another one has its uuid.

        A job of the queue is probably this one, from before the defaults changed: its values then
        fill the fields left open. A client's job must not keep the app server from its answer: this
        one then gets a uuid of its own.
        """
        if first.is_the_queues:
            return replace(self.job, **{name: getattr(first, name) for name in self.left_open})
        logger.warning(
            "job %s: a client has taken this uuid; the queue's job is %s",
            first.uuid,
            queue_uuid(first.uuid),
        )
        return replace(self.job, uuid=queue_uuid(first.uuid), told_as=first.uuid)


@dataclass(frozen=True)
class Pulled:
    """The outcome of one pull: uuids of stored jobs, and the reasons of parked messages.

    `left` messages stay in the queue because of a `problem`. The queue delivers them again.
    """

    accepted: tuple[str, ...] = ()
    parked: tuple[str, ...] = ()
    left: int = 0
    problem: SegPipelineError | None = None


def parse_message(body: str, settings: Settings, store: Store) -> JobMessage:
    """The job that a message describes; RequestError or ImageError if it can never be one.

    The store has the picture of `image_of`.
    """
    size = len(body.encode("utf-8", "replace"))
    if size > MAX_BODY_BYTES:
        raise InvalidRequest(f"the message has {size} bytes; at most {MAX_BODY_BYTES} are read.")
    try:
        message = _Body.model_validate_json(body)
    except ValidationError as error:
        raise _body_error(error) from error
    return _job_message(message, settings, store)


def _job_message(body: _Body, settings: Settings, store: Store) -> JobMessage:
    if body.image_url and body.imageUrl and body.image_url != body.imageUrl:
        raise InvalidRequest("image_url and imageUrl name two pictures; send one of them.")
    offered = settings.offered_models
    defaults = {
        "model": resolved_model(settings.queue_model, offered),
        "resize": None,
        "ttl_seconds": settings.asset_ttl_seconds,
    }
    named = {name: value for name in defaults if (value := getattr(body, name)) is not None}
    if body.model is not None:
        named["model"] = check_model(body.model, offered)
    asked = {
        **defaults,
        **named,
        "uuid": check_uuid(body.uuid),
        "parameters": body.parameters or {},
        "rle": body.rle or False,
        "priority": body.priority or Priority.NORMAL,
        "via": "sqs",
        "callback": settings.app_server_url is not None,
    }
    left_open = frozenset(defaults.keys() - named.keys())
    url = body.image_url or body.imageUrl or ""
    if body.image_of is None:
        return JobMessage(Job(image_url=check_image_url(url), **asked), left_open)
    if url:
        raise InvalidRequest(ONE_PICTURE)
    picture = _picture_of(check_uuid(body.image_of), body.uuid, store)
    job = job_of_bytes(picture, settings.max_image_pixels, **asked)
    return JobMessage(job, left_open, picture)


def _picture_of(uuid: str, asking: str, store: Store) -> bytes:
    """The picture of a job. The asking one may have it, if its message came before.

    Raises PictureNotKept.
    """
    try:
        return b"".join(kept_picture(store, _stored_as(uuid, store)))
    except PictureNotKept:
        mine = read_job(store, _stored_as(asking, store))
        if mine is None or not mine.is_the_queues or mine.source_sha256 is None:
            raise
        return b"".join(kept_picture(store, mine.uuid))


def _stored_as(uuid: str, store: Store) -> str:
    """The uuid under which the queue's job is kept: another one if a client had taken its own."""
    own = queue_uuid(uuid)
    return own if read_job(store, own) else uuid


def _body_error(error: ValidationError) -> InvalidRequest:
    first = error.errors()[0]
    if not first["loc"]:
        return InvalidRequest(
            f"the message is no JSON object: {first['msg']}."[:_REASON_CHARACTERS]
        )
    return InvalidRequest(f"the message's {first['loc'][0]}: {first['msg']}.")


def accept_message(body: str, settings: Settings, repository: JobRepository) -> str:
    """Accepts the job that a message describes, and returns its uuid.

    Raises RequestError or ImageError if it can never be one.
    """
    message = parse_message(body, settings, repository.store)
    with about(message.job.uuid):
        return _accept(message, repository)


def _accept(message: JobMessage, repository: JobRepository) -> str:
    job = message.job
    try:
        accepted = repository.acceptance.accept(job, message.picture)
    except JobConflict:
        # The last two: a parameter or prompt of this job does not suit the first job's model.
        with suppress(JobNotFound, InvalidParameter, InvalidPrompt):
            job = message.beside(repository.job(job.uuid))
        accepted = repository.acceptance.accept(job, message.picture)
    logger.info(
        "job %s: %s the queue",
        job.uuid,
        "accepted from" if accepted.created else "known already to",
    )
    return job.uuid


class SqsConsumer:
    """Moves messages from SQS_QUEUE_URL to the inbox.

    One per process, since its client keeps connections. Credentials come by boto3's own chain:
    AWS_PROFILE in development, the instance's role in production.
    """

    def __init__(
        self, settings: Settings, repository: JobRepository, answer_seconds: float = ANSWER_SECONDS
    ) -> None:
        self._settings = settings
        self._repository = repository
        self._answer_seconds = answer_seconds
        self._queue_url = settings.sqs_queue_url or ""

    def waiting(self) -> int:
        """About how many messages wait. It takes none. Raises QueueUnavailable."""
        attribute = "ApproximateNumberOfMessages"
        with _queue_errors(self._queue_url):
            answer = self._ask(
                "get_queue_attributes", QueueUrl=self._queue_url, AttributeNames=[attribute]
            )
        return int(answer.get("Attributes", {}).get(attribute, 0))

    def pull(self, wait_seconds: float = MAX_WAIT_SECONDS) -> Pulled:
        """Waits for messages, at most 20 s, and accepts up to ten. Raises QueueUnavailable."""
        with _queue_errors(self._queue_url):
            seconds = int(min(MAX_WAIT_SECONDS, max(0.0, wait_seconds)))
            answer = self._ask(
                "receive_message",
                within_seconds=seconds + self._answer_seconds,
                QueueUrl=self._queue_url,
                MaxNumberOfMessages=_BATCH,
                WaitTimeSeconds=seconds,
            )
        messages = answer.get("Messages", [])
        return self._take_all(messages) if messages else Pulled()

    def _take_all(self, messages: Sequence[_Message]) -> Pulled:
        """Accepts messages until there is a problem. The accepted ones are deleted in any case."""
        accepted: list[str] = []
        parked: list[str] = []
        taken: list[_Message] = []
        problem: SegPipelineError | None = None
        try:
            for message in messages:
                self._take(message, accepted, parked)
                taken.append(message)
        except (StoreError, QueueUnavailable) as error:
            problem = error
        try:
            self._delete(taken)
        except QueueUnavailable as error:  # they come again, and are known then
            problem = problem or error
        return Pulled(tuple(accepted), tuple(parked), len(messages) - len(taken), problem)

    def _take(self, message: _Message, accepted: list[str], parked: list[str]) -> None:
        body = str(message.get("Body", ""))
        try:
            accepted.append(accept_message(body, self._settings, self._repository))
            metrics.QUEUE_MESSAGES.labels("accepted").inc()
        except StoreError:
            raise
        except Exception as error:
            # Also what nobody foresaw: a message that cannot be taken must not loop.
            foreseen = error if isinstance(error, RequestError | ImageError) else None
            reason = foreseen or _unexpected(error)
            self._park(message, body, reason)
            parked.append(str(reason))

    def _park(self, message: _Message, body: str, error: SegPipelineError) -> None:
        """Parks the message in the store first: not every queue has a dead-letter queue."""
        message_id = str(message.get("MessageId", ""))
        note = ParkedNote(
            message_id=message_id,
            code=error.code,
            reason=str(error),
            body=body[:MAX_BODY_BYTES],
            is_cut=len(body) > MAX_BODY_BYTES,
            parked_at=datetime.now(UTC),
        )
        name = (
            message_id
            if keys.is_key(message_id)
            else hashlib.sha256(body.encode("utf-8", "replace")).hexdigest()
        )
        park(self._repository.store, name, note)
        metrics.QUEUE_MESSAGES.labels("parked").inc()
        logger.warning("message %s is parked: %s", message_id, error)
        self._to_dead_letter_queue(message_id, body, str(error))

    def _to_dead_letter_queue(self, message_id: str, body: str, reason: str) -> None:
        """Copies the message to the queue's dead-letter queue, if there is one.

        One that we may not use is skipped.
        """
        from botocore.exceptions import ClientError

        attributes = {
            "reason": {"DataType": "String", "StringValue": _printable(reason)[:_REASON_CHARACTERS]}
        }
        with _queue_errors(self._queue_url):
            try:
                url = self._dead_letter_url()
                if url:
                    ordered = {"MessageGroupId": "parked", "MessageDeduplicationId": message_id}
                    fifo: _Message = ordered if url.endswith(".fifo") else {}
                    self._ask(
                        "send_message",
                        QueueUrl=url,
                        MessageBody=body,
                        MessageAttributes=attributes,
                        **fifo,
                    )
            except ClientError as error:
                if not _is_refusal(error):
                    raise
                logger.warning(
                    "message %s is parked, but not in the dead-letter queue: %s", message_id, error
                )

    def _dead_letter_url(self) -> str | None:
        answer = self._ask(
            "get_queue_attributes", QueueUrl=self._queue_url, AttributeNames=["RedrivePolicy"]
        )
        policy = json.loads(answer.get("Attributes", {}).get("RedrivePolicy") or "{}")
        _, _, _, _, account, name = (policy.get("deadLetterTargetArn") or ":::::").split(":")
        if not name:
            return None
        answer = self._ask("get_queue_url", QueueName=name, QueueOwnerAWSAccountId=account)
        return str(answer["QueueUrl"])

    def _delete(self, messages: Sequence[_Message]) -> None:
        if not messages:
            return
        entries = [
            {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
            for number, message in enumerate(messages)
        ]
        with _queue_errors(self._queue_url):
            answer = self._ask("delete_message_batch", QueueUrl=self._queue_url, Entries=entries)
        for failure in answer.get("Failed", []):
            logger.warning(
                "a message was not deleted and will come again: %s", failure.get("Message")
            )

    def _ask(self, operation: str, within_seconds: float | None = None, **request: Any) -> Any:
        """Makes one request to SQS.

        Its deadline covers what botocore's time-outs do not: the look-up of the name, the
        credentials, and an answer that trickles.
        """
        seconds = within_seconds or self._answer_seconds
        return within(seconds, lambda: getattr(self._client, operation)(**request))

    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        settings = self._settings
        in_url = _AWS_QUEUE.match(self._queue_url)
        session = boto3.Session(profile_name=settings.aws_profile)
        return session.client(
            "sqs",
            region_name=in_url[1] if in_url else settings.aws_region,
            endpoint_url=settings.sqs_endpoint_url,
            config=Config(
                connect_timeout=5,
                read_timeout=MAX_WAIT_SECONDS + 5,
                retries={"total_max_attempts": 1},  # whoever pulls pauses, and pulls again
            ),
        )


def _unexpected(error: Exception) -> RequestError:
    logger.error("a message could not be taken in a way nobody foresaw", exc_info=error)
    return InvalidRequest(
        f"the message could not be taken: an unexpected {type(error).__name__} occurred."
    )


def _is_refusal(error: Any) -> bool:
    """Whether AWS understood the request and refused it: no permission, or no such queue."""
    status = answered_status(error)
    code = str(error.response.get("Error", {}).get("Code", ""))
    return 400 <= status < 500 and "Thrott" not in code and "Expired" not in code


@contextmanager
def _queue_errors(queue_url: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, DeadlinePassed) as error:
        raise QueueUnavailable(
            f"the queue {queue_url} cannot be used: {_printable(str(error))[:300]}"
        ) from error


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)
